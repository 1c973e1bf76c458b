#!/usr/bin/env bash
# Train a model of text with LEAF. Needs: pip install 'verl-leaf[gpu]'. Hydra overrides may follow.
set -xeuo pipefail

MODEL=${MODEL:-Qwen/Qwen2.5-3B-Instruct}
TRAIN=${TRAIN:-$HOME/data/gsm8k/train.parquet}
VAL=${VAL:-$HOME/data/gsm8k/test.parquet}

python3 -m verl.trainer.main_ppo --config-name leaf \
    data.train_files="$TRAIN" \
    data.val_files="$VAL" \
    data.train_batch_size=256 \
    data.max_prompt_length=512 \
    data.max_response_length=1024 \
    actor_rollout_ref.model.path="$MODEL" \
    actor_rollout_ref.actor.optim.lr=1e-6 \
    actor_rollout_ref.actor.ppo_mini_batch_size=64 \
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8 \
    actor_rollout_ref.rollout.name=vllm \
    actor_rollout_ref.rollout.n=8 \
    actor_rollout_ref.rollout.calculate_log_probs=True \
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=16 \
    actor_rollout_ref.rollout.gpu_memory_utilization=0.6 \
    algorithm.leaf.fork_budget=2 \
    trainer.total_epochs=5 \
    trainer.test_freq=20 \
    "$@"
