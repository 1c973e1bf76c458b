#!/usr/bin/env bash
# Train a tiny speech model that may ask to hear the clip again: see README.md here.
#
#   bash examples/ask_again/run.sh [hydra overrides]
#
# TASK   folder for data, model and run (default work/ask_again)      VENV  as in recipes/
# CLIPS  training clips, and STEPS of the warm start
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source recipes/common.sh
if has_gpu; then setup gpu,examples; else setup cpu,examples; fi
on_cpu_share_the_cores
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}  # of the tool and the reward

TASK=$(realpath -m "${TASK:-work/ask_again}")
RUN=$(realpath -m "${RUN:-$TASK/run}")
python -m examples.ask_again.prepare --out "$TASK" --clips "${CLIPS:-3600}" --steps "${STEPS:-1000}"
TRAIN=$TASK/data/train.parquet VAL=$TASK/data/val.parquet MODEL=$TASK/model RUN=$RUN \
  bash recipes/qwen2audio_leaf.sh \
  actor_rollout_ref.rollout.multi_turn.tool_config_path="$PWD/examples/ask_again/tools.yaml" \
  actor_rollout_ref.rollout.multi_turn.max_assistant_turns=2 \
  reward.custom_reward_function.path="$PWD/examples/ask_again/reward.py" \
  reward.custom_reward_function.name=worth \
  actor_rollout_ref.actor.optim.lr=1e-3 \
  data.max_prompt_length=160 \
  data.max_response_length=160 \
  "$@"
