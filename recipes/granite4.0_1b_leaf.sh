#!/usr/bin/env bash
# Train Granite 4.0 1B Speech with LEAF through verl: FSDP actor with LoRA, vLLM rollouts, sentence-BLEU reward.
# The variables METHOD, DATA, TRAIN, VAL, EPOCHS, MODEL, GPUS, NODES, RUN and the option --dry-run: see speech.sh.
RECIPE=granite4.0_1b_leaf
FAMILY=granite_speech
HUB_MODEL=ibm-granite/granite-4.0-1b-speech
source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/speech.sh"
