#!/usr/bin/env bash
#SBATCH --job-name=verl-leaf
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
# Run a recipe on several nodes: a Ray cluster with one worker per node, and the recipe on the node of its head.
#
#   DATA=librisqa EPOCHS=4 sbatch recipes/slurm.sh recipes/qwen2audio_leaf.sh [hydra overrides]
#
# The project must be on a file system that all nodes see, with the environment installed (VENV, by default the project's
# .venv-gpu, or .venv-EXTRA if the recipe sets EXTRA). Five minutes before the time limit the run is told to stop: it saves a
# checkpoint after its step. Run the same command again to resume; set RUN=folder to make sure that it resumes this run.
set -euo pipefail
: "${1:?give the path of a recipe}"
# (Slurm runs a copy of this file, so the project is found through the recipe.)
EXTRA=$(sed -n 's/^EXTRA=\([a-z-]*\).*/\1/p' "$1")
VENV=$(realpath "${VENV:-$(dirname "$(realpath "$1")")/../.venv-${EXTRA:-gpu}}")
export PATH=$VENV/bin:$PATH
unset VENV  # the recipe finds the package on PATH
mapfile -t HOSTS < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
PORT=$((20000 + SLURM_JOB_ID % 10000))
# srun has not inherited it since Slurm 22.05. Without it, Ray and all its workers would share one core.
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
export NODES=${#HOSTS[@]} GPUS=${GPUS:-$SLURM_GPUS_ON_NODE} RAY_ADDRESS=${HOSTS[0]}:$PORT
# Ray's sockets need a short path, and the TMPDIR of a job may be long.
export RAY_TMPDIR=${RAY_TMPDIR:-${TMPDIR:-/tmp}}
((${#RAY_TMPDIR} <= 39)) || RAY_TMPDIR=/tmp/ray-$SLURM_JOB_ID
# Only this user may use the cluster. (ray 2.60 requires its token if ~/.ray contains one, but sends it only in this mode.)
export RAY_AUTH_MODE=token
ray get-auth-token --generate >/dev/null

RECIPE=
# The recipe saves a checkpoint before it ends. The cluster ends after it.
trap '[[ -z $RECIPE ]] || { kill -TERM "$RECIPE" 2>/dev/null && wait "$RECIPE"; }; exit 143' TERM
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
srun --nodes=1 --ntasks=1 --nodelist="${HOSTS[0]}" \
  ray start --head --port="$PORT" --num-gpus="$GPUS" --block &
for host in "${HOSTS[@]:1}"; do
  srun --nodes=1 --ntasks=1 --nodelist="$host" ray start --address="$RAY_ADDRESS" --num-gpus="$GPUS" --block &
done
# Wait for all nodes. The trainer would also wait for them, but without a message.
for _ in $(seq 60); do
  nodes=$(python -c 'import ray; ray.init(logging_level="ERROR"); print(sum(node["Alive"] for node in ray.nodes()))' || echo 0)
  [[ $nodes == "$NODES" ]] && break
  sleep 5
done
[[ $nodes == "$NODES" ]] || { echo "Only $nodes of $NODES nodes have joined the Ray cluster at $RAY_ADDRESS" >&2; exit 1; }
bash "$@" &
RECIPE=$!
wait "$RECIPE"
