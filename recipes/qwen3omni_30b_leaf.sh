#!/usr/bin/env bash
# Train Qwen3-Omni 30B-A3B with LEAF through verl: FSDP actor with LoRA, vLLM rollouts, sentence-BLEU reward. Only the attention
# of the thinker's language model is trained. Experts, audio encoder and vision tower are frozen; the talker is not loaded.
# The variables METHOD, DATA, TRAIN, VAL, EPOCHS, MODEL, GPUS, NODES, RUN and the option --dry-run: see speech.sh.
RECIPE=qwen3omni_30b_leaf
FAMILY=qwen3_omni_moe
EXTRA=gpu-newest  # vLLM's class has LoRA from 0.29 on
HUB_MODEL=Qwen/Qwen3-Omni-30B-A3B-Instruct
source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/speech.sh"
