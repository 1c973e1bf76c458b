#!/usr/bin/env bash
# Train Audio Flamingo 3 with LEAF through verl, in the paper's configuration for its own models.
# The variables METHOD, DATA, TRAIN, VAL, EPOCHS, MODEL, GPUS, NODES, RUN and the option --dry-run: see speech.sh.
RECIPE=audioflamingo3_leaf
FAMILY=audioflamingo3
HUB_MODEL=nvidia/audio-flamingo-3-hf
source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/speech.sh"
