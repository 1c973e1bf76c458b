"""The plan of the study: which runs there are, and what they have in common."""

from dataclasses import dataclass

TASKS = ("translation", "answering")
SEEDS = (1, 2, 3, 4, 5)
ABLATION_SEEDS = SEEDS[:2]
STEPS = 40
ROLLOUTS_PER_STEP = 48
ROLLOUTS_PER_UPDATE = 16
SCORES = {"translation": (0.3, 0.4), "answering": (0.3, 0.4)}
"""Rewards of the rollouts to reach, chosen before methods were compared, from a pilot run of GRPO."""

COMMON = (
    f"trainer.total_training_steps={STEPS}",
    f"trainer.test_freq={STEPS // 2}",
    "trainer.save_freq=10",
    "trainer.max_actor_ckpt_to_keep=null",
    "trainer.checkpoint_callback_class=null",
    "data.max_prompt_length=160",
    "data.max_response_length=24",
    "actor_rollout_ref.model.lora_rank=8",
    "actor_rollout_ref.model.lora_alpha=16",
    "actor_rollout_ref.actor.optim.lr=2e-3",
    # As in results/: what verl's AdamW does unless told otherwise.
    "actor_rollout_ref.actor.optim.betas=[0.9,0.999]",
    "actor_rollout_ref.actor.optim.weight_decay=0.01",
    "actor_rollout_ref.actor.optim.lr_warmup_steps_ratio=0.0",
    f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={ROLLOUTS_PER_UPDATE}",
    f"actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu={ROLLOUTS_PER_UPDATE}",
    f"actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu={ROLLOUTS_PER_UPDATE}",
    "actor_rollout_ref.rollout.top_p=1.0",
    "actor_rollout_ref.rollout.val_kwargs.n=1",
    "actor_rollout_ref.rollout.agent.agent_loop_manager_class=examples.leaf_against_grpo.lane.SeededManager",
    # vLLM 0.27.1 cannot put back a CPU generator when it cuts a prompt in two (v1/worker/gpu_model_runner.py
    # _bookkeeping_sync): responses with seeds need prompts that are read at once.
    "actor_rollout_ref.rollout.enable_chunked_prefill=False",
    "actor_rollout_ref.rollout.max_num_batched_tokens=16384",
)
"""Overrides of every cell, beside `leaf_speech_cpu` (LoRA, KL to the base model, clipping, loss, schedule)."""


def _responses(n: int) -> tuple[str, ...]:
    """Overrides for `n` responses per prompt, with the same number of rollouts per step and per update."""
    return (
        f"actor_rollout_ref.rollout.n={n}",
        f"data.train_batch_size={ROLLOUTS_PER_STEP // n}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={ROLLOUTS_PER_UPDATE // n}",
    )


GRPO, LEAF = "algorithm.adv_estimator=grpo", "algorithm.adv_estimator=leaf"
COMPARED: dict[str, tuple[str, ...]] = {
    "leaf": (LEAF, *_responses(8)),
    "grpo": (GRPO, *_responses(8)),
    "grpo_floored": ("algorithm.adv_estimator=grpo_floored", *_responses(8)),
}
"""Run on both tasks."""
ABLATIONS: dict[str, tuple[str, ...]] = {
    "leaf_global": (LEAF, "algorithm.leaf.credit=global", *_responses(8)),
    "leaf_local": (LEAF, "algorithm.leaf.credit=local", *_responses(8)),
    "leaf_b1": (LEAF, "algorithm.leaf.fork_budget=1", *_responses(8)),
    "leaf_b4": (LEAF, "algorithm.leaf.fork_budget=4", *_responses(8)),
    "leaf_k4": (LEAF, *_responses(4)),
    "leaf_k16": (LEAF, *_responses(16)),
}
"""Run on the first task, where `leaf` has both credits, B = 2 and K = 8. B = 0 is `grpo`: the advantages are the same."""
COST: dict[str, tuple[str, ...]] = {"cost": (LEAF, "study.side_by_side=[grpo,leaf]", *_responses(8))}
"""What a step costs: both estimators on the same rollouts, in turns. Run once, when nothing else runs."""


@dataclass(frozen=True)
class Cell:
    """One run of the study: a task, a method of the above, a seed."""

    task: str
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder below the study's, as in `translation/leaf/1`."""
        return f"{self.task}/{self.method}/{self.seed}"

    def overrides(self, data: str) -> list[str]:
        """Its overrides; `data` is the folder of the parquet files."""
        return [
            *(COMPARED | ABLATIONS | COST)[self.method],
            f"data.train_files={data}/{self.task}_train.parquet",
            f"data.val_files={data}/{self.task}_test.parquet",
            f"data.seed={self.seed}",
            # Before training all are the same model.
            f"trainer.val_before_train={self.method == 'grpo'}",
        ]


def plan() -> list[Cell]:
    """All cells: the comparison first, one seed after the other; the cost last."""
    compared = [Cell(task, method, seed) for seed in SEEDS for task in TASKS for method in COMPARED]
    ablations = [Cell(TASKS[0], method, seed) for seed in ABLATION_SEEDS for method in ABLATIONS]
    return [*compared, *ablations, *(Cell(TASKS[0], method, SEEDS[0]) for method in COST)]
