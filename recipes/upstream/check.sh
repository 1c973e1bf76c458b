#!/usr/bin/env bash
# Check what the series makes of a verl with the ruff and the mypy of verl's pre-commit, and with verl's settings.
#
#   bash recipes/upstream/check.sh              the installed verl; the first time, install both tools into .venv-verl
#   bash recipes/upstream/check.sh CHECKOUT     a clone of verl, with all hooks of its own pre-commit; it is left as it is
set -euo pipefail
checkout=${1:+$(realpath "$1")}
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source recipes/common.sh
setup cpu,examples,test
tools=$PWD/.venv-verl settings=$PWD/recipes/upstream/pyproject.toml apply=$PWD/recipes/upstream/apply.py
if [[ $("$tools/bin/ruff" --version; "$tools/bin/mypy" --version) != *"ruff 0.12.2"*"mypy 1.17.0"* ]] 2>/dev/null; then
  install_into "$tools" cpu --quiet ruff==0.12.2 mypy==1.17.0
fi
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
if [[ $checkout ]]; then
  git clone --quiet "$checkout" "$copy"
  cd "$copy"
  touch began
  python "$apply" . >/dev/null
  settings=pyproject.toml
else
  cp -r "$(python -c 'import importlib.util as u; print(u.find_spec("verl").submodule_search_locations[0])')" "$copy"
  cd "$copy"
  touch began
  python "$apply" --installed . >/dev/null
fi
mapfile -t files < <(find . -name '*.py' -newer began)
"$tools/bin/ruff" check --quiet --no-cache --config "$settings" "${files[@]}"
"$tools/bin/ruff" format --quiet --no-cache --check --config "$settings" "${files[@]}"
"$tools/bin/mypy" --config-file "$settings" --cache-dir /dev/null --scripts-are-modules "${files[@]}"
if [[ $checkout ]]; then
  rm began
  git add --all  # the hook that generates configurations compares with what is staged
  python - <<'PYTHON'
import subprocess
import sys

import yaml

hooks = [hook for repo in yaml.safe_load(open(".pre-commit-config.yaml"))["repos"] for hook in repo["hooks"]]
failed = []
for hook in hooks:
    if "entry" in hook:  # ruff and mypy have run
        done = subprocess.run(hook["entry"], shell=True, capture_output=True, text=True)
        print("failed" if done.returncode else "passed", hook["id"])
        if done.returncode:
            print(done.stdout + done.stderr)
            failed.append(hook["id"])
sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
PYTHON
fi
