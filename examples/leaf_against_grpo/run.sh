#!/usr/bin/env bash
# LEAF against GRPO on three spoken tasks: make the tasks and the model, run the study, and write its report. See README.md.
#
#   bash examples/leaf_against_grpo/run.sh                         the whole study; run it again to resume
#   bash examples/leaf_against_grpo/run.sh register/leaf/0.003/1   one cell of it
#   bash examples/leaf_against_grpo/run.sh --second                the second study; run it again to resume
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source recipes/common.sh
if has_gpu; then
  echo "The study's model is too small for a GPU. Run it on a machine without one" >&2
  exit 2
fi
setup cpu,examples
on_cpu_share_the_cores
python -m examples.leaf_against_grpo.prepare --out work/leaf_against_grpo
python -m examples.leaf_against_grpo.study "$@"
