#!/usr/bin/env bash
# Run the tests; the first time, install what they need into a virtual environment.
#
#   bash tests/run.sh [pytest arguments]        VENV=folder to choose the environment (default .venv)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/common.sh
setup cpu,examples,test
# The tree page is tested in a real browser; without one, its tests are skipped.
if ! command -v chromium >/dev/null && command -v apt-get >/dev/null && [[ $(id -u) == 0 ]]; then
  { apt-get update && apt-get install -y --no-install-recommends chromium; } >/dev/null || echo "Chromium cannot be installed"
fi
exec python -m pytest "$@"
