#!/usr/bin/env bash
# Train Qwen2.5-Omni 7B with LEAF through verl: FSDP actor with LoRA, vLLM rollouts, sentence-BLEU reward. The thinker's
# language model is trained; audio encoder and vision tower are frozen, and the talker is not loaded.
# The variables METHOD, DATA, TRAIN, VAL, EPOCHS, MODEL, GPUS, NODES, RUN and the option --dry-run: see speech.sh.
RECIPE=qwen2.5omni_7b_leaf
FAMILY=qwen2_5_omni
HUB_MODEL=Qwen/Qwen2.5-Omni-7B
source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/speech.sh"
