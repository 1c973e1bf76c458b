#!/usr/bin/env bash
# Train a tiny text model with LEAF through verl's main_ppo. See README.md.
#
#   bash examples/next_letter/run.sh [hydra overrides]      TASK=folder for data and model, VENV=, GPUS= as in recipes/
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source recipes/common.sh
if has_gpu; then setup gpu; check_gpus; MACHINE=gpu; else setup cpu; MACHINE=cpu; fi
on_cpu_share_the_cores
GPUS=${GPUS:-1}
TASK=$(realpath -m "${TASK:-work/next_letter}")
python -m examples.next_letter.prepare --out "$TASK"

FLAGS=(
  data.train_files="$TASK/train.parquet"
  data.val_files="$TASK/val.parquet"
  data.train_batch_size=8
  data.max_prompt_length=32
  data.max_response_length=16
  data.dataloader_num_workers=0

  actor_rollout_ref.model.path="$TASK/model"
  actor_rollout_ref.model.use_remove_padding=False
  actor_rollout_ref.model.override_config.attn_implementation=sdpa
  actor_rollout_ref.actor.strategy=fsdp2
  actor_rollout_ref.actor.optim.lr=1e-3
  actor_rollout_ref.actor.ppo_mini_batch_size=4
  actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32
  actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=64
  actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=64
  actor_rollout_ref.rollout.name=vllm
  actor_rollout_ref.rollout.n=8
  actor_rollout_ref.rollout.calculate_log_probs=True
  actor_rollout_ref.rollout.tensor_model_parallel_size=1
  actor_rollout_ref.rollout.max_model_len=64

  reward.custom_reward_function.path=examples/next_letter/reward.py
  reward.custom_reward_function.name=share_right

  trainer.project_name=verl_leaf
  trainer.experiment_name=next_letter
  trainer.logger=[console]
  trainer.n_gpus_per_node="$GPUS"
  trainer.total_epochs=1
  trainer.total_training_steps=20
  trainer.save_freq=-1
  trainer.test_freq=10
)
python -m verl.trainer.main_ppo --config-name leaf machine="$MACHINE" "${FLAGS[@]}" "$@"
