#!/usr/bin/env bash
# Run the fast tests against a copy of the installed verl with the series for verl (recipes/upstream) applied, except the tests
# of the series, which apply it themselves.
#
#   bash tests/versions/with_series.sh [pytest arguments]        VENV=folder to choose the environment (default .venv)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source recipes/common.sh
setup cpu,examples,test
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r "$(python -c 'import importlib.util as u; print(u.find_spec("verl").submodule_search_locations[0])')" "$copy"
python recipes/upstream/apply.py --installed "$copy"
PYTHONPATH=$copy${PYTHONPATH:+:$PYTHONPATH} python -m pytest -m "not e2e and not install" \
  --ignore tests/recipes/test_upstream.py "$@"
