# What recipes and tests share; to be sourced from the project's root.

# (Not `| grep -q`: it may leave before nvidia-smi has listed all, which pipefail takes for a failure.)
has_gpu() { [[ $(nvidia-smi --list-gpus 2>/dev/null) == *GPU* ]]; }

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

# How FSDP2, vLLM and Ray run a small model without a GPU.
CPU_ENGINES=(
  # fp32, so that the actor's and the rollout's probabilities must agree.
  actor_rollout_ref.rollout.dtype=float32
  actor_rollout_ref.{actor,ref}.fsdp_config.model_dtype=fp32
  "+actor_rollout_ref."{actor,ref}".fsdp_config.mixed_precision={param_dtype: fp32, reduce_dtype: fp32, buffer_dtype: fp32}"
  actor_rollout_ref.actor.use_torch_compile=False
  actor_rollout_ref.actor.fsdp_config.use_torch_compile=False

  actor_rollout_ref.rollout.max_num_seqs=64
  actor_rollout_ref.rollout.max_num_batched_tokens=4096
  actor_rollout_ref.rollout.enforce_eager=True
  actor_rollout_ref.rollout.free_cache_engine=False
  +actor_rollout_ref.rollout.enable_sleep_mode=False
  +actor_rollout_ref.rollout.engine_kwargs.vllm.distributed_executor_backend=uni
  actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=64
  actor_rollout_ref.rollout.agent.num_workers=1
  reward.num_workers=1

  # Ray counts logical resources: a rank takes one "GPU" (num_gpus), and too few CPUs make it wait for ever.
  trainer.device=cpu
  ray_kwargs.ray_init.num_cpus=16
  +ray_kwargs.ray_init.include_dashboard=False
  transfer_queue.backend.SimpleStorage.num_data_storage_units=1
)

# To be called before a run: what the engines read from the environment on a machine without a GPU.
on_cpu_use_all_cores() {
  if has_gpu; then return; fi
  # A cache that fits a small machine (GiB).
  export VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-1}
  # Or vLLM's CPU platform (0.27.1, platforms/cpu.py) takes `mp` for `uni`, and starts one more process.
  export VLLM_ENABLE_V1_MULTIPROCESSING=0
  # Ray gives a worker one thread; the phases of a step take turns, so each may have all cores.
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}
}
