#!/usr/bin/env bash
# Train Qwen2-Audio 7B with LEAF through verl: FSDP actor with LoRA, vLLM rollouts, sentence-BLEU reward.
# The variables METHOD, DATA, TRAIN, VAL, EPOCHS, MODEL, GPUS, NODES, RUN and the option --dry-run: see speech.sh.
#
# Without a GPU and without variables it installs what it needs, builds a spoken corpus, warm-starts a tiny Qwen2-Audio
# and trains that.
RECIPE=qwen2audio_leaf
FAMILY=qwen2_audio
HUB_MODEL=Qwen/Qwen2-Audio-7B  # the paper's; MODEL=Qwen/Qwen2-Audio-7B-Instruct for the other one
source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/speech.sh"
