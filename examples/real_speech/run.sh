#!/usr/bin/env bash
# Make a real speech model from two packages, measure how well it recognises speech, and train it with LEAF. See README.md.
#
#   bash examples/real_speech/run.sh [--train] [hydra overrides]
#
# --train  train the bridge instead of using the one in this folder
# TASK     folder for packages, bridge, model, data and run (default work/real_speech)      VENV  as in recipes/
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source recipes/common.sh

BRIDGE=examples/real_speech/bridge.safetensors
if [[ ${1:-} == --train ]]; then
  BRIDGE=
  shift
fi
TASK=$(realpath -m "${TASK:-work/real_speech}")

TIMES=()
# timed WHAT COMMAND: run the command and record its time.
timed() {
  local began=$SECONDS
  echo "== $1"
  "${@:2}"
  TIMES+=("$(printf '%6d s  %s' $((SECONDS - began)) "$1")")
}

install_packages() {
  local package missing=() root=()
  for package in flite fortunes pocketsphinx-testdata asterisk-core-sounds-en asterisk-core-sounds-en-wav; do
    dpkg -s "$package" >/dev/null 2>&1 || missing+=("$package")
  done
  if [[ ${#missing[@]} == 0 ]]; then return; fi
  if [[ $(id -u) != 0 ]]; then root=(sudo); fi
  "${root[@]}" apt-get install --yes --no-install-recommends "${missing[@]}" || {
    echo "These packages could not be installed: ${missing[*]}. Install them and run the command again" >&2
    exit 2
  }
}

measure() {
  python -m examples.real_speech.whisper "$TASK/data/test.parquet" --parts "$TASK/parts" --out "$TASK/whisper_tiny_en.jsonl"
  verl-leaf evaluate smollm2="$TASK/model" "$TASK/whisper_tiny_en.jsonl" \
    --data "$TASK/data/test.parquet" --out "$TASK/hearing" --greedy --max-tokens 40 --metrics wer
}

train() {
  TRAIN=$TASK/data/train.parquet VAL=$TASK/data/validation.parquet MODEL=$TASK/model RUN=${RUN:-$TASK/run} \
    bash recipes/qwen2audio_leaf.sh \
    reward.custom_reward_function.name=wer \
    actor_rollout_ref.actor.optim.lr=3e-4 \
    data.max_prompt_length=192 \
    data.train_batch_size=2 \
    algorithm.leaf.trace_every=1 \
    trainer.total_training_steps=3 \
    trainer.save_freq=3 \
    trainer.test_freq=3 \
    "$@"
}

if has_gpu; then setup gpu,examples; else setup cpu,examples; fi
on_cpu_share_the_cores
timed "Debian packages" install_packages
if [[ -z $BRIDGE ]]; then
  BRIDGE=$TASK/bridge.safetensors
  timed "bridge" python -m examples.real_speech.train --out "$TASK"
fi
timed "model" python -m examples.real_speech.prepare --out "$TASK" --bridge "$BRIDGE"
timed "data" verl-leaf prepare manifest "$TASK/manifest.csv" --name people --out "$TASK/data"
timed "hearing" measure
timed "training" train "$@"
timed "tree page" verl-leaf tree "${RUN:-$TASK/run}" --audio "$TASK/wav"
printf '%s\n' "${TIMES[@]}"
