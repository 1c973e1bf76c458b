#!/usr/bin/env bash
# Run the tests; the first time, install what they need into a virtual environment.
#
#   bash tests/run.sh [pytest arguments]        VENV=folder to choose the environment (default .venv)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/common.sh
setup cpu,examples,test
exec python -m pytest "$@"
