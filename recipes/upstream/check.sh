#!/usr/bin/env bash
# Check what the series makes of the installed verl with the ruff and the mypy of verl's pre-commit, and with verl's settings.
#
#   bash recipes/upstream/check.sh        the first time, install both into .venv-verl
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source recipes/common.sh
setup cpu,examples,test
tools=$PWD/.venv-verl settings=$PWD/recipes/upstream/pyproject.toml
if [[ $("$tools/bin/ruff" --version; "$tools/bin/mypy" --version) != *"ruff 0.12.2"*"mypy 1.17.0"* ]] 2>/dev/null; then
  install_into "$tools" cpu --quiet ruff==0.12.2 mypy==1.17.0
fi
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r "$(python -c 'import importlib.util as u; print(u.find_spec("verl").submodule_search_locations[0])')" "$copy"
touch "$copy/began"
python recipes/upstream/apply.py --installed "$copy" >/dev/null
cd "$copy"
mapfile -t files < <(find . -name '*.py' -newer began)
"$tools/bin/ruff" check --quiet --no-cache --config "$settings" "${files[@]}"
"$tools/bin/ruff" format --quiet --no-cache --check --config "$settings" "${files[@]}"
"$tools/bin/mypy" --config-file "$settings" --cache-dir /dev/null --scripts-are-modules "${files[@]}"
