# What the recipes of speech models share. A recipe sets RECIPE, FAMILY, HUB_MODEL and PROMPT_TOKENS, and sources this.
#
#   bash recipes/qwen2audio_leaf.sh [--dry-run] [hydra overrides]      --dry-run prints the commands and runs none
#
# METHOD  leaf (default), grpo (veRL's) or grpo_floored (the paper's GRPO)
# DATA    librisqa, covost2, dailytalk or parliament: rows of data/$DATA, made by `verl-leaf prepare`; or
# TRAIN   parquet file to train on, and
# VAL     parquet file to validate on
# EPOCHS  number of warm restarts, the paper's epochs: each has a fresh optimiser and schedule and goes on with the adapter
#         of the one before; the KL reference stays the base model
# MODEL   model folder or hub name instead of the recipe's
# GPUS    GPUs a node (default: all that nvidia-smi lists)     NODES  nodes of the Ray cluster (default 1)
# RUN     folder of the run (default: a new one below runs/, or the last unfinished one with the same command, which goes on)
# VENV    virtual environment to make and use (default .venv)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/common.sh

METHOD=${METHOD:-leaf} NODES=${NODES:-1} OPTIONS=() OVERRIDES=()
[[ $METHOD =~ ^(leaf|grpo|grpo_floored)$ ]] || { echo "METHOD=$METHOD: valid are leaf, grpo, grpo_floored" >&2; exit 2; }
for argument; do
  if [[ $argument == --dry-run ]]; then OPTIONS+=(--dry-run); else OVERRIDES+=("$argument"); fi
done

if [[ -n ${DATA:-} ]]; then
  if [[ ! $DATA =~ ^(librisqa|covost2|dailytalk|parliament)$ ]]; then
    echo "DATA=$DATA: valid are librisqa, covost2, dailytalk, parliament; for other data set TRAIN= and VAL=" >&2
    exit 2
  fi
  shards=("data/$DATA/"train*.parquet)
  if [[ ! -e ${shards[0]} ]]; then
    echo "data/$DATA has no train.parquet: make it with \`verl-leaf prepare $DATA ... --out data/$DATA\` (see README.md)" >&2
    exit 2
  fi
  TRAIN=[$(IFS=,; echo "${shards[*]}")]
  shards=("data/$DATA/"validation*.parquet)
  VAL=${shards[0]}
fi

if has_gpu; then
  setup gpu
  GPUS=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
else
  setup cpu,examples
  GPUS=${GPUS:-1}
  if [[ -z ${TRAIN:-}${VAL:-}${MODEL:-} && $FAMILY == qwen2_audio ]]; then
    python -m examples.spoken_german.prepare --out "${TASK:=work/spoken_german}"
    MODEL=$TASK/model TRAIN=$TASK/data/train.parquet VAL=$TASK/data/val.parquet
  fi
  : "${MODEL:?without a GPU, set MODEL= to a small model of the family $FAMILY}"
fi
: "${TRAIN:?set TRAIN= and VAL= to parquet files with the columns data_source, prompt, audios, reward_model, or set DATA=}"
: "${VAL:?set VAL=}"
if [[ -z ${MODEL:-} ]]; then
  MODEL=$HUB_MODEL
  if [[ -n ${OWN_ADAPTER:-} ]]; then
    # What starts, and what the KL divergence is measured against, is the model with its own speech adapter.
    MODEL=work/${HUB_MODEL#*/}-merged
    if [[ ! -d $MODEL && ${#OPTIONS[@]} == 0 ]]; then verl-leaf merge "$HUB_MODEL" --out "$MODEL"; fi
  fi
fi
RANKS=$((GPUS * NODES))
# veRL's mini-batches are whole prompts, 8 responses each, shared evenly by all GPUs: the paper's 6 responses become 1 prompt,
# or as many as that takes.
MINI=1
while ((MINI * 8 % RANKS)); do MINI=$((MINI + 1)); done
on_cpu_use_all_cores

# ----- the published configuration (arXiv 2606.07610), in veRL's flags; README.md has it as a table ----------------------
FLAGS=(
  algorithm.adv_estimator="$METHOD"
  algorithm.use_kl_in_reward=False

  data.train_batch_size=$(((6 + MINI - 1) / MINI * MINI))
  data.max_prompt_length="$PROMPT_TOKENS"
  data.max_response_length=200

  # veRL's FSDP engine has no LoRA dropout; the paper uses 0.05.
  actor_rollout_ref.model.lora_rank=64
  actor_rollout_ref.model.lora_alpha=128

  actor_rollout_ref.actor.strategy=fsdp2
  actor_rollout_ref.actor.optim.lr=5e-6
  actor_rollout_ref.actor.optim.lr_scheduler_type=cosine
  actor_rollout_ref.actor.optim.min_lr_ratio=0.1
  actor_rollout_ref.actor.ppo_mini_batch_size="$MINI"
  # All that a GPU has of a mini-batch at once: the actor computes what it has in common once.
  actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=$((MINI * 8 / RANKS))
  +actor_rollout_ref.model.override_config.share_prompts=True
  actor_rollout_ref.actor.ppo_epochs=1
  actor_rollout_ref.actor.clip_ratio=0.2
  actor_rollout_ref.actor.use_kl_loss=True
  actor_rollout_ref.actor.kl_loss_type=low_var_kl
  actor_rollout_ref.actor.kl_loss_coef=0.02
  actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean
  # A GPU's share of a step must be whole micro-batches, whichever prompts failed: veRL fills it up to whole mini-batches.
  actor_rollout_ref.{rollout,ref}.log_prob_micro_batch_size_per_gpu=$((MINI * 8 / RANKS))

  actor_rollout_ref.rollout.name=vllm
  actor_rollout_ref.rollout.n=8
  actor_rollout_ref.rollout.temperature=1.0
  # The rollout's log-probabilities are those after top-p, the actor's are not: with 0.9, training/rollout_probs_diff_*
  # shows what top-p cut off besides numerical differences.
  actor_rollout_ref.rollout.top_p=0.9
  actor_rollout_ref.rollout.calculate_log_probs=True
  actor_rollout_ref.rollout.load_format=safetensors
  actor_rollout_ref.rollout.tensor_model_parallel_size=1
  actor_rollout_ref.rollout.max_model_len=$((PROMPT_TOKENS + 256))
  actor_rollout_ref.rollout.val_kwargs.do_sample=True
  actor_rollout_ref.rollout.val_kwargs.temperature=0.9
  actor_rollout_ref.rollout.val_kwargs.top_p=0.9
  actor_rollout_ref.rollout.val_kwargs.n=5

  reward.custom_reward_function.path=pkg://verl_leaf.rewards
  reward.custom_reward_function.name=sentence_bleu

  trainer.total_epochs=1
  trainer.save_freq=100
  trainer.test_freq=100
  trainer.max_actor_ckpt_to_keep=2
)
if [[ $METHOD == leaf ]]; then
  FLAGS+=(+algorithm.leaf.fork_budget=2 +algorithm.leaf.min_prefix_tokens=1 +algorithm.leaf.credit=both)
fi
# A few clips of these corpora are longer than Qwen2-Audio's window of 30 s; their validation sets have thousands of rows.
[[ -z ${DATA:-} ]] || FLAGS+=(+data.long_audio=cut trainer.test_freq=1000)

# ----- a tiny model on a machine without a GPU -----------------------------------------------------------------------
CPU_FLAGS=(
  "${CPU_ENGINES[@]}"
  +ray_kwargs.ray_init.num_gpus="$GPUS"

  data.train_batch_size=4
  data.max_prompt_length=160
  data.max_response_length=24
  data.dataloader_num_workers=0

  actor_rollout_ref.model.lora_rank=16
  actor_rollout_ref.model.lora_alpha=32
  actor_rollout_ref.model.enable_gradient_checkpointing=False
  actor_rollout_ref.actor.optim.lr=2e-3
  actor_rollout_ref.rollout.top_p=1.0
  actor_rollout_ref.rollout.max_model_len=256
  actor_rollout_ref.rollout.val_kwargs.n=1

  trainer.total_epochs=100
  trainer.total_training_steps=40
  trainer.save_freq=10
  trainer.test_freq=20
)
if ! has_gpu; then
  FLAGS+=("${CPU_FLAGS[@]}")
  [[ $METHOD != leaf ]] || FLAGS+=(+algorithm.leaf.trace_every=4)
fi

if [[ -n ${RUN:-} ]]; then OPTIONS+=(--run "$RUN"); else OPTIONS+=(--runs "runs/$RECIPE"); fi
verl-leaf train "${OPTIONS[@]}" --family "$FAMILY" --epochs "${EPOCHS:-1}" --val "$VAL" -- \
  "${FLAGS[@]}" \
  data.train_files="$TRAIN" \
  actor_rollout_ref.model.path="$MODEL" \
  trainer.n_gpus_per_node="$GPUS" \
  trainer.nnodes="$NODES" \
  "${OVERRIDES[@]}"
