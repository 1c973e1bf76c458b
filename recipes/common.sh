# What recipes and tests share; to be sourced from the project's root.

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus 2>/dev/null | grep -q GPU; }

# setup EXTRAS: put a python with verl-leaf[EXTRAS] first on PATH. An activated environment that has the package is used
# as it is, unless VENV names another; otherwise one is made in $VENV (default .venv), or completed where an earlier
# attempt was cut off.
setup() {
  if [[ -z ${VENV:-} ]] && command -v verl-leaf >/dev/null; then return; fi
  local venv=${VENV:-.venv}
  local complete=$venv/verl-leaf-$1
  if [[ ! $complete -nt pyproject.toml ]]; then
    echo "Installing verl-leaf[$1] into $venv"
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet uv
    # uv does not read pip's configuration; wheels that lie on disk are named there.
    local links
    links=$("$venv/bin/python" -m pip config get global.find-links 2>/dev/null || true)
    if [[ $1 == cpu* ]]; then install_cpu_torch "$venv" "${PIP_FIND_LINKS:-$links}"; fi
    UV_FIND_LINKS=${PIP_FIND_LINKS:-$links} "$venv/bin/uv" pip install --python "$venv/bin/python" -e ".[$1]"
    touch "$complete"
  fi
  PATH=$PWD/$venv/bin:$PATH
}
