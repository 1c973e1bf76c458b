#!/usr/bin/env bash
# Check style, English and types, also of the series for verl with verl's settings. The first time, install what that needs
# into a virtual environment.
#
#   bash tests/check.sh        VENV=folder to choose the environment (default .venv)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/common.sh
setup cpu,examples,test
ruff check .
ruff format --check .
git ls-files -z '*.py' '*.sh' '*.md' | xargs -0 codespell
git ls-files -z '*.py' '*.sh' '*.md' | xargs -0 python tests/english.py
mypy
bash recipes/upstream/check.sh
