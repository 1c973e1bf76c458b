#!/usr/bin/env bash
# Train Qwen2-Audio 7B with LEAF through verl: FSDP actor with LoRA, vLLM rollouts, sentence-BLEU reward.
# The variables METHOD, DATA, TRAIN, VAL, EPOCHS, MODEL, GPUS, NODES, RUN and the option --dry-run: see speech.sh.
#
# Without a GPU and without variables, it installs what it needs, makes a spoken corpus, warm-starts a tiny Qwen2-Audio, and
# trains it.
RECIPE=qwen2audio_leaf
FAMILY=qwen2_audio
HUB_MODEL=Qwen/Qwen2-Audio-7B  # the paper's model; MODEL=Qwen/Qwen2-Audio-7B-Instruct also works
source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/speech.sh"
