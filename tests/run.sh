#!/usr/bin/env bash
# Run the tests. The first time, install what they need into a virtual environment.
#
#   bash tests/run.sh                           the fast tests and one end-to-end run of each path
#   bash tests/run.sh --all [pytest arguments]  everything
#   bash tests/run.sh PATHS or other arguments  pytest with these arguments
#
# VENV=folder chooses the environment (default .venv).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/common.sh
setup cpu,examples,test
# The tree page is tested in a real browser, METEOR with WordNet, and hearing with recordings of people. Tests are skipped if
# these packages are missing.
missing=()
command -v chromium >/dev/null || missing+=(chromium)
[[ -d /usr/share/wordnet ]] || missing+=(wordnet-base)
[[ -d /usr/share/pocketsphinx/test ]] || missing+=(pocketsphinx-testdata)
if ((${#missing[@]})) && command -v apt-get >/dev/null && [[ $(id -u) == 0 ]]; then
  { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >/dev/null ||
    echo "These packages cannot be installed: ${missing[*]}"
fi
case ${1:-} in
  "") set -- -m "not e2e and not install and not slow or quick" ;;
  --all) shift ;;
  *) exec python -m pytest "$@" ;;
esac
# Two files at a time, in pytest's order: the engines of two end-to-end tests fit into 24 GiB.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} VLLM_CPU_OMP_THREADS_BIND=${VLLM_CPU_OMP_THREADS_BIND:-nobind}
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
