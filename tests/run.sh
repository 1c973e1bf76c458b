#!/usr/bin/env bash
# Run the tests; the first time, install what they need into a virtual environment.
#
#   bash tests/run.sh [pytest arguments]        VENV=folder to choose the environment (default .venv)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/common.sh
setup cpu,examples,test
# The tree page is tested in a real browser, METEOR with WordNet, hearing with recordings of people; without, their tests are
# skipped.
missing=()
command -v chromium >/dev/null || missing+=(chromium)
[[ -d /usr/share/wordnet ]] || missing+=(wordnet-base)
[[ -d /usr/share/pocketsphinx/test ]] || missing+=(pocketsphinx-testdata)
if ((${#missing[@]})) && command -v apt-get >/dev/null && [[ $(id -u) == 0 ]]; then
  { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >/dev/null ||
    echo "Cannot be installed: ${missing[*]}"
fi
exec python -m pytest "$@"
