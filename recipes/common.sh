# What recipes and tests share.
ROOT=$(dirname "$(dirname "$(realpath "${BASH_SOURCE[0]}")")")  # of the project

# (Not `| grep -q`: it may leave before nvidia-smi has listed all, which pipefail takes for a failure.)
has_gpu() { [[ $(nvidia-smi --list-gpus 2>/dev/null) == *GPU* ]]; }

# The GPUs that a run would get: CUDA_VISIBLE_DEVICES may hide some, and lists MIG devices one by one.
count_gpus() {
  if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
    tr , '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .
  else
    nvidia-smi --list-gpus | grep -c ^GPU
  fi
}

# Stop where torch cannot use the GPUs, which would end in Ray, or train on the CPU.
check_gpus() { python -m verl_leaf.checks.gpus || exit 2; }

# install_into VENV DEVICE ARGUMENTS: `uv pip install ARGUMENTS` for cpu or gpu; makes the environment where there is none.
install_into() {
  local venv=$1 device=$2 wheels
  if [[ ! -x $venv/bin/uv ]]; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet uv
  fi
  # uv does not read pip's configuration: hand it the folder of wheels, if pip knows one.
  wheels=${PIP_FIND_LINKS:-$("$venv/bin/python" -m pip config get global.find-links 2>/dev/null || true)}
  # A plain `torch` would bring gigabytes of CUDA to a machine without a GPU.
  if ! compgen -G "$wheels/torch-*cpu*" >/dev/null; then
    [[ $device != cpu ]] || export UV_TORCH_BACKEND=cpu
  elif [[ $device == gpu ]]; then
    wheels=  # uv would prefer a torch for CPUs of the same version
  fi
  UV_FIND_LINKS=$wheels VIRTUAL_ENV=$venv "$venv/bin/uv" pip install "${@:3}"
}

has_verl() { python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("verl") is None)'; }

# setup EXTRAS: put a python with verl-leaf[EXTRAS] first on PATH. An activated environment that has it and verl is used
# as it is, unless VENV names another; otherwise one is made in $VENV, or completed where an earlier attempt was cut off.
# By default that is .venv, and .venv-gpu or .venv-gpu-newest for GPUs: one environment holds one vLLM.
setup() {
  if [[ -z ${VENV:-} ]] && command -v verl-leaf >/dev/null && has_verl; then return; fi
  local device=cpu venv=.venv complete
  if [[ $1 == *gpu* ]]; then device=gpu venv=.venv-$1; fi
  venv=$(realpath -m "${VENV:-$ROOT/$venv}")
  complete=$venv/installed-$1
  if [[ ! $complete -nt $ROOT/pyproject.toml ]]; then
    echo "Installing verl-leaf[$1] into $venv"
    # Every process of a run imports the same gigabyte of Python: compile it once, here.
    UV_COMPILE_BYTECODE=1 install_into "$venv" "$device" -e "$ROOT[$1]"
    touch "$complete"
  fi
  PATH=$venv/bin:$PATH
  unset VENV  # what is called from here finds the package on PATH
}

# To be called before a run: what the engines read from the environment on a machine without a GPU.
on_cpu_share_the_cores() {
  if has_gpu; then return; fi
  # A cache that fits a small machine (GiB).
  export VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-1}
  # Or vLLM's CPU platform (0.27.1, platforms/cpu.py) takes `mp` for `uni`, and starts one more process.
  export VLLM_ENABLE_V1_MULTIPROCESSING=0
  # Ray gives a worker one thread. The phases of a step take turns, so each may have all cores but one: threads that
  # wait for each other while the processes around them have that core make a step slower.
  local cores
  cores=$(nproc)
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > 1 ? cores - 1 : 1))}
  # vLLM would take them all, a thread bound to each.
  export VLLM_CPU_OMP_THREADS_BIND=${VLLM_CPU_OMP_THREADS_BIND:-nobind}
}
