#!/usr/bin/env bash
# Train a tiny speech model on spoken multiple-choice questions, and evaluate it with controls. See README.md.
#
#   bash examples/spoken_choices/run.sh [hydra overrides]
#
# TASK   folder for data, model, run and evaluation (default work/spoken_choices)      VENV  as in recipes/
# CLIPS  number of training clips      STEPS  steps of the warm start
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source recipes/common.sh
if has_gpu; then setup gpu,examples; else setup cpu,examples; fi
on_cpu_share_the_cores

TASK=$(realpath -m "${TASK:-work/spoken_choices}")
RUN=$(realpath -m "${RUN:-$TASK/run}")
python -m examples.spoken_choices.prepare --out "$TASK" --clips "${CLIPS:-3600}" --steps "${STEPS:-1000}"
verl-leaf prepare audioqa "$TASK/data/spoken_choices.jsonl" --out "$TASK/rows" \
  --prompt "$(python -c 'from examples.spoken_choices.questions import PROMPT; print(PROMPT)')"
TRAIN=$TASK/rows/train.parquet VAL=$TASK/rows/test.parquet MODEL=$TASK/model RUN=$RUN \
  bash recipes/qwen2audio_leaf.sh \
  reward.custom_reward_function.name=choice_format \
  +reward.custom_reward_function.reward_kwargs.weight=0.2 \
  +reward.custom_reward_function.reward_kwargs.thinking=true \
  data.max_prompt_length=256 \
  data.max_response_length=48 \
  "$@"
verl-leaf evaluate before="$TASK/model" after="$RUN" --data "$TASK/rows/test.parquet" --out "$TASK/evaluation" \
  --greedy --max-tokens 48 --controls
