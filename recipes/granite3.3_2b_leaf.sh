#!/usr/bin/env bash
# Train Granite Speech 3.3 2B with LEAF through verl: FSDP actor with LoRA, vLLM rollouts, sentence-BLEU reward.
# The variables METHOD, DATA, TRAIN, VAL, EPOCHS, MODEL, GPUS, NODES, RUN and the option --dry-run: see speech.sh.
RECIPE=granite3.3_2b_leaf
FAMILY=granite_speech
HUB_MODEL=ibm-granite/granite-speech-3.3-2b
OWN_ADAPTER=yes  # the checkpoint contains a speech LoRA, which is merged into its weights first
source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/speech.sh"
