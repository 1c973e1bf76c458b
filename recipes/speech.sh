# The common part of the recipes of speech models. A recipe sets RECIPE, FAMILY and HUB_MODEL, and sources this file. EXTRA is
# the extra of verl-leaf that a machine with GPUs needs (default: gpu).
#
#   bash recipes/qwen2audio_leaf.sh [--dry-run] [hydra overrides]      --dry-run prints the commands without running them
#
# METHOD  estimator, see verl_leaf/algorithm/README.md: leaf (default), grpo (verl's), ...
# DATA    librisqa, covost2, dailytalk or parliament: rows in data/$DATA, made by `verl-leaf prepare`; or
# TRAIN   parquet file to train on, and
# VAL     parquet file to validate on
# EPOCHS  number of warm restarts, the paper's epochs: each has a fresh optimiser and schedule, and continues with the adapter
#         of the previous one; the KL reference stays the base model
# MODEL   model folder or hub name instead of the recipe's model
# GPUS    GPUs per node (default: all that this process can use)     NODES  nodes of the Ray cluster (default 1)
# RUN     folder of the run (default: a new one below runs/, or the last unfinished one with the same command, which is resumed)
# VENV    virtual environment to make and use (default .venv)
set -euo pipefail
source "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/common.sh"

METHOD=${METHOD:-leaf} OPTIONS=() OVERRIDES=() DRY=
for argument; do
  if [[ $argument == --dry-run ]]; then DRY=1 OPTIONS+=(--dry-run); else OVERRIDES+=("$argument"); fi
done

# ----- which data --------------------------------------------------------------------------------------------------
[[ -z ${TRAIN:-} ]] || TRAIN_FILES=("$TRAIN")
if [[ -n ${DATA:-} ]]; then
  if [[ ! $DATA =~ ^(librisqa|covost2|dailytalk|parliament)$ ]]; then
    echo "DATA=$DATA is not valid. Valid values are librisqa, covost2, dailytalk, parliament. For other data set TRAIN= and VAL=" >&2
    exit 2
  fi
  if [[ -n ${TRAIN:-}${VAL:-} ]]; then
    echo "DATA=$DATA and TRAIN= or VAL= are set. Set either DATA=, or TRAIN= and VAL=" >&2
    exit 2
  fi
  TRAIN_FILES=("$ROOT/data/$DATA/"train*.parquet)
  VAL_FILES=("$ROOT/data/$DATA/"validation*.parquet)
  if [[ ! -e ${TRAIN_FILES[0]} ]]; then
    echo "$ROOT/data/$DATA has no train.parquet. Make it with \`verl-leaf prepare $DATA ... --out $ROOT/data/$DATA\` (see README.md)" >&2
    exit 2
  fi
  VAL=${VAL_FILES[0]}
  # A few clips of these corpora are longer than Qwen2-Audio's window of 30 s.
  OVERRIDES=(data.long_audio=cut "${OVERRIDES[@]}")
fi

# ----- which machine -----------------------------------------------------------------------------------------------
if has_gpu; then
  setup "${EXTRA:-gpu}"
  [[ $DRY ]] || check_gpus
  CONFIG=leaf_speech
  GPUS=${GPUS:-$(count_gpus)}
else
  setup cpu,examples
  on_cpu_share_the_cores
  CONFIG=leaf_speech_cpu
  GPUS=${GPUS:-1}
  if [[ -z ${TRAIN_FILES:-}${VAL:-}${MODEL:-} && $FAMILY == qwen2_audio ]]; then
    TASK=$(realpath -m "${TASK:-$ROOT/work/spoken_german}")
    [[ $DRY ]] || (cd "$ROOT" && python -m examples.spoken_german.prepare --out "$TASK")
    MODEL=$TASK/model TRAIN_FILES=("$TASK/data/train.parquet") VAL=$TASK/data/val.parquet
  elif [[ $DRY && -z ${MODEL:-} ]]; then
    echo "There is no GPU here. This is the command for a machine with GPUS=$GPUS:" >&2
    CONFIG=leaf_speech
  else
    : "${MODEL:?without a GPU, set MODEL= to a small model of the family $FAMILY}"
  fi
fi
: "${TRAIN_FILES:?set TRAIN= and VAL= to parquet files with the columns data_source, prompt, audios, reward_model, or set DATA=}"
: "${VAL:?set VAL=}"

# ----- which model -------------------------------------------------------------------------------------------------
if [[ -z ${MODEL:-} ]]; then
  MODEL=$HUB_MODEL
  if [[ -n ${OWN_ADAPTER:-} ]]; then
    # The run starts from the model merged with its own speech adapter, which is also the KL reference.
    MODEL=$ROOT/work/${HUB_MODEL#*/}-merged
    if [[ ! -d $MODEL && ! $DRY ]]; then verl-leaf merge "$HUB_MODEL" --out "$MODEL"; fi
  fi
fi

if [[ -n ${RUN:-} ]]; then OPTIONS+=(--run "$RUN"); else OPTIONS+=(--runs "$ROOT/runs/$RECIPE"); fi
# (exec, so that the signal that ends a Slurm job reaches the training process.)
exec verl-leaf train "${OPTIONS[@]}" --config-name "$CONFIG" --family "$FAMILY" --epochs "${EPOCHS:-1}" \
  --model "$MODEL" --train "${TRAIN_FILES[@]}" --val "$VAL" -- \
  algorithm.adv_estimator="$METHOD" \
  trainer.n_gpus_per_node="$GPUS" \
  trainer.nnodes="${NODES:-1}" \
  "${OVERRIDES[@]}"
