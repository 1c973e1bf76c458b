#!/usr/bin/env bash
#SBATCH --job-name=verl-leaf
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@300
# Run a recipe on several nodes: a Ray cluster with one worker a node, and the recipe beside its head.
#
#   DATA=librisqa EPOCHS=4 sbatch recipes/slurm.sh recipes/qwen2audio_leaf.sh [hydra overrides]
#
# The project is on a file system that all nodes see, with the environment installed (VENV, by default the project's .venv-gpu).
# Five minutes before a time limit the run is told to stop: it saves a checkpoint after its step. The same command goes on from
# there: give RUN=folder to be sure that it is the same run.
set -euo pipefail
: "${1:?give a recipe}"
# (Slurm runs a copy of this file: the recipe is where the project is.)
VENV=$(realpath "${VENV:-$(dirname "$(realpath "$1")")/../.venv-gpu}")
export PATH=$VENV/bin:$PATH
unset VENV  # the recipe finds the package on PATH
mapfile -t HOSTS < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
PORT=$((20000 + SLURM_JOB_ID % 10000))
# srun has not inherited it since Slurm 22.05: Ray and all its workers would share one core.
if [[ -n ${SLURM_CPUS_PER_TASK:-} ]]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi
export NODES=${#HOSTS[@]} GPUS=${GPUS:-$SLURM_GPUS_ON_NODE} RAY_ADDRESS=${HOSTS[0]}:$PORT
# Ray's sockets need a short path, and the TMPDIR of a job may be long.
export RAY_TMPDIR=${RAY_TMPDIR:-${TMPDIR:-/tmp}}
((${#RAY_TMPDIR} <= 39)) || RAY_TMPDIR=/tmp/ray-$SLURM_JOB_ID
# Only this user may use the cluster. (ray 2.60 asks for its token where ~/.ray has one, but sends it only in this mode.)
export RAY_AUTH_MODE=token
ray get-auth-token --generate >/dev/null

RECIPE=
# The recipe saves before it ends; the cluster ends after it.
trap '[[ -z $RECIPE ]] || { kill -TERM "$RECIPE" 2>/dev/null && wait "$RECIPE"; }; exit 143' TERM
trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT
srun --nodes=1 --ntasks=1 --nodelist="${HOSTS[0]}" \
  ray start --head --port="$PORT" --num-gpus="$GPUS" --block &
for host in "${HOSTS[@]:1}"; do
  srun --nodes=1 --ntasks=1 --nodelist="$host" ray start --address="$RAY_ADDRESS" --num-gpus="$GPUS" --block &
done
# Until all nodes are there; the trainer would wait for them, too, but without a word.
for _ in $(seq 60); do
  nodes=$(python -c 'import ray; ray.init(logging_level="ERROR"); print(sum(node["Alive"] for node in ray.nodes()))' || echo 0)
  [[ $nodes == "$NODES" ]] && break
  sleep 5
done
[[ $nodes == "$NODES" ]] || { echo "$nodes of $NODES nodes have joined the Ray cluster at $RAY_ADDRESS" >&2; exit 1; }
bash "$@" &
RECIPE=$!
wait "$RECIPE"
