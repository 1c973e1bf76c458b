# Functions that recipes and tests share.
ROOT=$(dirname "$(dirname "$(realpath "${BASH_SOURCE[0]}")")")  # folder of the project

# (`| grep -q` may exit before nvidia-smi has listed all GPUs, which pipefail counts as a failure.)
has_gpu() { [[ $(nvidia-smi --list-gpus 2>/dev/null) == *GPU* ]]; }

# Count the GPUs that a run gets. CUDA_VISIBLE_DEVICES may hide some, and lists MIG devices separately.
count_gpus() {
  if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
    tr , '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .
  else
    nvidia-smi --list-gpus | grep -c ^GPU
  fi
}

# Stop if torch cannot use the GPUs. Otherwise the run would fail in Ray, or train on the CPU.
check_gpus() { python -m verl_leaf.checks.gpus || exit 2; }

# install_into VENV DEVICE ARGUMENTS: run `uv pip install ARGUMENTS` for cpu or gpu, in an environment that is made if needed.
install_into() {
  local venv=$1 device=$2 wheels
  if [[ ! -x $venv/bin/uv ]]; then
    "${PYTHON:-python3}" -m venv "$venv"
    "$venv/bin/python" -m pip install --quiet uv
  fi
  # uv does not read pip's configuration, so pass it the folder of wheels if pip has one.
  wheels=${PIP_FIND_LINKS:-$("$venv/bin/python" -m pip config get global.find-links 2>/dev/null || true)}
  # A plain `torch` would install gigabytes of CUDA on a machine without a GPU.
  if ! compgen -G "$wheels/torch-*cpu*" >/dev/null; then
    [[ $device != cpu ]] || export UV_TORCH_BACKEND=cpu
  elif [[ $device == gpu ]]; then
    wheels=  # uv would prefer a torch for CPUs of the same version
  fi
  UV_FIND_LINKS=$wheels VIRTUAL_ENV=$venv "$venv/bin/uv" pip install "${@:3}"
}

has_verl() { python -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("verl") is None)'; }

# setup EXTRAS: put a python with verl-leaf[EXTRAS] first on PATH. If an activated environment contains it and verl, it is used
# as it is, unless VENV names another one. Otherwise an environment is made in $VENV, or completed if an earlier attempt was
# cut off. The default is .venv, or .venv-gpu or .venv-gpu-newest for GPUs, because an environment has one vLLM.
setup() {
  if [[ -z ${VENV:-} ]] && command -v verl-leaf >/dev/null && has_verl; then return; fi
  local device=cpu venv=.venv complete
  if [[ $1 == *gpu* ]]; then device=gpu venv=.venv-${1%%,*}; fi
  venv=$(realpath -m "${VENV:-$ROOT/$venv}")
  complete=$venv/installed-$1
  if [[ ! $complete -nt $ROOT/pyproject.toml ]]; then
    echo "Installing verl-leaf[$1] into $venv"
    # Every process of a run imports the same gigabyte of Python, so it is compiled here once.
    UV_COMPILE_BYTECODE=1 install_into "$venv" "$device" -e "$ROOT[$1]"
    touch "$complete"
  fi
  PATH=$venv/bin:$PATH
  unset VENV  # the scripts called from here find the package on PATH
}

# Set what the engines read from the environment on a machine without a GPU. Call it before a run.
on_cpu_share_the_cores() {
  if has_gpu; then return; fi
  # A cache that fits into a small machine (GiB).
  export VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-1}
  # Otherwise vLLM's CPU platform (0.27.1, platforms/cpu.py) replaces `uni` by `mp`, and starts one more process.
  export VLLM_ENABLE_V1_MULTIPROCESSING=0
  # Ray gives a worker one thread. The phases of a step run one after the other, so each may use all cores except one. If threads
  # that wait for each other also use the last core, which other processes need, a step becomes slower.
  local cores
  cores=$(nproc)
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > 1 ? cores - 1 : 1))}
  # Otherwise vLLM uses all cores, with one thread bound to each.
  export VLLM_CPU_OMP_THREADS_BIND=${VLLM_CPU_OMP_THREADS_BIND:-nobind}
}
