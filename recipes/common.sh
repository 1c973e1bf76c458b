# What recipes and tests share; to be sourced from the project's root.

has_gpu() { command -v nvidia-smi >/dev/null && nvidia-smi --list-gpus 2>/dev/null | grep -q GPU; }

# setup EXTRAS: put a python with verl-leaf[EXTRAS] first on PATH. An activated environment that has the package is used
# as it is, unless VENV names another; otherwise one is made in $VENV (default .venv), or completed where an earlier
# attempt was cut off.
setup() {
  if [[ -z ${VENV:-} ]] && command -v verl-leaf >/dev/null; then return; fi
  local venv complete wheels
  venv=$(realpath -m "${VENV:-.venv}")
  complete=$venv/installed-$1
  if [[ ! $complete -nt pyproject.toml ]]; then
    echo "Installing verl-leaf[$1] into $venv"
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet uv
    # uv does not read pip's configuration: hand it the folder of wheels, if pip knows one.
    wheels=${PIP_FIND_LINKS:-$("$venv/bin/python" -m pip config get global.find-links 2>/dev/null || true)}
    # A plain `torch` would bring gigabytes of CUDA to a machine without a GPU.
    if [[ $1 == *cpu* ]] && ! compgen -G "$wheels/torch-*cpu*" >/dev/null; then export UV_TORCH_BACKEND=cpu; fi
    # Every process of a run imports the same gigabyte of Python: compile it once, here.
    UV_COMPILE_BYTECODE=1 UV_FIND_LINKS=$wheels VIRTUAL_ENV=$venv "$venv/bin/uv" pip install -e ".[$1]"
    touch "$complete"
  fi
  PATH=$venv/bin:$PATH
  unset VENV  # what is called from here finds the package on PATH
}
