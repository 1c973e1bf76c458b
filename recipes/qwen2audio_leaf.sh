#!/usr/bin/env bash
# Train Qwen2-Audio with LEAF through veRL: FSDP actor with LoRA, vLLM rollouts, sentence-BLEU reward.
#
#   bash recipes/qwen2audio_leaf.sh [hydra overrides]
#
# With a GPU:      TRAIN=train.parquet VAL=val.parquet [MODEL=Qwen/Qwen2-Audio-7B-Instruct] bash recipes/qwen2audio_leaf.sh
# Without a GPU:   no arguments. It installs what it needs, builds a spoken corpus, warm-starts a tiny Qwen2-Audio and
#                  trains that. TRAIN, VAL and MODEL together replace corpus and model.
#
# MODEL  model folder or hub name             RUN   folder of the run (default: a new one below runs/, or the last
# TRAIN  parquet file to train on                   unfinished one with the same command, which goes on)
# VAL    parquet file to validate on          VENV  virtual environment to make and use (default .venv)
# GPUS   GPUs a node (default: all that nvidia-smi lists)     NODES  nodes of the Ray cluster (default 1)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source recipes/common.sh

if has_gpu; then
  setup gpu
  MODEL=${MODEL:-Qwen/Qwen2-Audio-7B-Instruct}
  : "${TRAIN:?set TRAIN= and VAL= to parquet files with the columns data_source, prompt, audios, reward_model}" "${VAL:?set VAL=}"
  GPUS=${GPUS:-$(nvidia-smi --list-gpus | wc -l)}
else
  setup cpu,examples
  if [[ -z ${TRAIN:-}${VAL:-}${MODEL:-} ]]; then
    python examples/spoken_german/prepare.py --out "${TASK:=work/spoken_german}"
    MODEL=$TASK/model TRAIN=$TASK/data/train.parquet VAL=$TASK/data/val.parquet
  fi
  : "${MODEL:?set MODEL=, TRAIN= and VAL=, or none of them}" "${TRAIN:?set TRAIN=}" "${VAL:?set VAL=}"
  GPUS=${GPUS:-1}
fi
RANKS=$((GPUS * ${NODES:-1}))
on_cpu_use_all_cores

# ----- the published configuration (arXiv 2606.07610), in veRL's flags -----------------------------------------------
FLAGS=(
  algorithm.adv_estimator=leaf
  +algorithm.leaf.fork_budget=2
  +algorithm.leaf.min_prefix_tokens=1
  +algorithm.leaf.credit=both
  algorithm.use_kl_in_reward=False

  data.train_batch_size=6
  data.max_prompt_length=1024
  data.max_response_length=200
  data.custom_cls.path=pkg://verl_leaf.speech.dataset
  data.custom_cls.name=SpeechDataset

  # veRL's FSDP engine has no LoRA dropout; the paper uses 0.05.
  actor_rollout_ref.model.lora_rank=64
  actor_rollout_ref.model.lora_alpha=128
  "actor_rollout_ref.model.target_modules=[q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj]"
  # The same names occur in the audio encoder, which stays frozen: vLLM serves no LoRA there.
  "actor_rollout_ref.model.exclude_modules='.*(audio_tower|multi_modal_projector).*'"
  actor_rollout_ref.model.use_remove_padding=False
  +actor_rollout_ref.model.override_config.attn_implementation=sdpa

  actor_rollout_ref.actor.strategy=fsdp2
  actor_rollout_ref.actor.optim.lr=5e-6
  actor_rollout_ref.actor.optim.lr_scheduler_type=cosine
  actor_rollout_ref.actor.optim.min_lr_ratio=0.1
  # The paper steps every 6 responses. veRL's mini-batches are whole prompts: 1 prompt, 8 responses.
  actor_rollout_ref.actor.ppo_mini_batch_size=1
  actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1
  actor_rollout_ref.actor.ppo_epochs=1
  actor_rollout_ref.actor.clip_ratio=0.2
  actor_rollout_ref.actor.use_kl_loss=True
  actor_rollout_ref.actor.kl_loss_type=low_var_kl
  actor_rollout_ref.actor.kl_loss_coef=0.02
  actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean
  # A GPU's share of a step must be whole micro-batches, whichever prompts failed: veRL fills it up to whole mini-batches.
  actor_rollout_ref.{rollout,ref}.log_prob_micro_batch_size_per_gpu=$((8 > RANKS ? 8 / RANKS : 1))

  actor_rollout_ref.rollout.name=vllm
  actor_rollout_ref.rollout.n=8
  actor_rollout_ref.rollout.temperature=1.0
  # The rollout's log-probabilities are those after top-p, the actor's are not: with 0.9, training/rollout_probs_diff_*
  # shows what top-p cut off besides numerical differences.
  actor_rollout_ref.rollout.top_p=0.9
  actor_rollout_ref.rollout.calculate_log_probs=True
  actor_rollout_ref.rollout.load_format=safetensors
  actor_rollout_ref.rollout.tensor_model_parallel_size=1
  actor_rollout_ref.rollout.max_model_len=1280
  actor_rollout_ref.rollout.val_kwargs.do_sample=True
  actor_rollout_ref.rollout.val_kwargs.temperature=0.9
  actor_rollout_ref.rollout.val_kwargs.top_p=0.9
  actor_rollout_ref.rollout.val_kwargs.n=5
  actor_rollout_ref.rollout.agent.default_agent_loop=speech
  +actor_rollout_ref.rollout.agent.agent_loop_manager_class=verl_leaf.speech.agent_loop.SpeechAgentLoopManager

  reward.custom_reward_function.path=pkg://verl_leaf.rewards
  reward.custom_reward_function.name=sentence_bleu

  trainer.total_epochs=1
  trainer.save_freq=100
  trainer.test_freq=100
  trainer.max_actor_ckpt_to_keep=2
)

# ----- a tiny model on a machine without a GPU -----------------------------------------------------------------------
CPU_FLAGS=(
  "${CPU_ENGINES[@]}"
  +ray_kwargs.ray_init.num_gpus="$GPUS"

  +algorithm.leaf.trace_every=4

  data.train_batch_size=4
  data.max_prompt_length=160
  data.max_response_length=24
  data.dataloader_num_workers=0

  actor_rollout_ref.model.lora_rank=16
  actor_rollout_ref.model.lora_alpha=32
  actor_rollout_ref.model.enable_gradient_checkpointing=False
  actor_rollout_ref.actor.optim.lr=2e-3
  actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4
  actor_rollout_ref.rollout.top_p=1.0
  actor_rollout_ref.rollout.max_model_len=256
  actor_rollout_ref.rollout.val_kwargs.n=1

  trainer.total_epochs=100
  trainer.total_training_steps=40
  trainer.save_freq=10
  trainer.test_freq=20
)
has_gpu || FLAGS+=("${CPU_FLAGS[@]}")

if [[ -n ${RUN:-} ]]; then WHERE=(--run "$RUN"); else WHERE=(--runs runs/qwen2audio_leaf); fi
verl-leaf train "${WHERE[@]}" --val "$VAL" -- \
  "${FLAGS[@]}" \
  data.train_files="$TRAIN" \
  actor_rollout_ref.model.path="$MODEL" \
  trainer.n_gpus_per_node="$GPUS" \
  trainer.nnodes="${NODES:-1}" \
  "$@"
