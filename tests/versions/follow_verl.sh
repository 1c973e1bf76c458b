#!/usr/bin/env bash
# Try another verl on a machine without a GPU: install it into a separate environment, print for every hook and patch whether it
# is still needed (follow_verl.py), and run the fast tests.
#
#   bash tests/versions/follow_verl.sh 0.10.0 [pytest arguments]      a release
#   bash tests/versions/follow_verl.sh FOLDER [pytest arguments]      a checkout
#
# VENV  environment to use (default .venv-verl)
set -euo pipefail
: "${1:?give a version of verl, or the folder of a checkout}"
if [[ -d $1 ]]; then verl="verl @ file://$(realpath "$1")"; else verl="verl==$1"; fi
shift
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source recipes/common.sh
venv=$(realpath -m "${VENV:-.venv-verl}")
unset VENV

install_into "$venv" cpu --quiet uv
echo "$verl" >"$venv/overrides.txt"
install_into "$venv" cpu --quiet --reinstall-package verl --override "$venv/overrides.txt" -e '.[cpu,examples,test]'

export PATH=$venv/bin:$PATH
python -m tests.versions.follow_verl && followed=0 || followed=$?
python -m pytest -m "not e2e and not install" "$@"
exit "$followed"
