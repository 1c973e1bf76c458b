"""The plan of the study: which runs there are, and what they have in common."""

from collections.abc import Callable
from dataclasses import dataclass

TASKS = ("translation", "register", "report")
EARLY_TASK = "register"
METHODS = ("grpo", "grpo_floored", "leaf", "tempo", "grpo_prefix")
BASELINE = "grpo"
BASELINES = (BASELINE, "grpo_floored")
"""The baselines that methods are compared with: verl's GRPO and the paper's baseline."""
AT_RMS_OF_GRPO = "_at_rms"
"""End of the name of a method whose advantages are multiplied so that they have the root mean square of GRPO's."""
RATES = (1.5e-3, 3e-3, 6e-3)
"""Learning rates, from which each method gets its best one on each task."""
SWEEP_SEEDS = (101, 102)
"""Seeds that choose the learning rates and are not reported."""
SEEDS = (1, 2, 3, 4, 5, 6)
STEPS = 30
START_STEPS = 16
ROLLOUTS_PER_STEP = 32
ROLLOUTS_PER_UPDATE = 16
SCORES = {"translation": (0.3, 0.4), "register": (0.3, 0.4), "report": (0.8, 0.85)}
"""Rewards of the rollouts that are to be reached, fixed before methods are compared."""

COMMON = (
    f"trainer.total_training_steps={STEPS}",
    f"trainer.test_freq={STEPS}",
    f"trainer.save_freq={STEPS // 2}",
    "trainer.max_actor_ckpt_to_keep=null",
    "trainer.checkpoint_callback_class=null",
    "data.max_prompt_length=160",
    "data.max_response_length=48",
    "actor_rollout_ref.model.lora_rank=8",
    "actor_rollout_ref.model.lora_alpha=16",
    # What verl's AdamW does unless told otherwise.
    "actor_rollout_ref.actor.optim.betas=[0.9,0.999]",
    "actor_rollout_ref.actor.optim.weight_decay=0.01",
    "actor_rollout_ref.actor.optim.lr_warmup_steps_ratio=0.0",
    "actor_rollout_ref.rollout.top_p=1.0",
    "actor_rollout_ref.rollout.val_kwargs.n=1",
    "actor_rollout_ref.rollout.agent.agent_loop_manager_class=examples.leaf_against_grpo.lane.SeededManager",
    # vLLM 0.27.1 cannot put back a CPU generator when it cuts a prompt in two (v1/worker/gpu_model_runner.py
    # _bookkeeping_sync): responses with seeds need prompts that are read at once.
    "actor_rollout_ref.rollout.enable_chunked_prefill=False",
    "actor_rollout_ref.rollout.max_num_batched_tokens=16384",
)
"""Overrides of every cell, in addition to `leaf_speech_cpu` (LoRA, KL to the base model, clipping, loss, schedule)."""


@dataclass(frozen=True)
class Cell:
    """One run of the study: a task, a method with a learning rate, a seed, and the number of responses per prompt."""

    task: str
    method: str
    rate: float
    seed: int
    n: int = 8

    @property
    def name(self) -> str:
        """The cell's folder below the study's, such as `translation/leaf/0.003/1`; `leaf_k16` with 16 responses."""
        return f"{self.task}/{self.method}{'' if self.n == 8 else f'_k{self.n}'}/{self.rate:g}/{self.seed}"

    @property
    def steps(self) -> int:
        """The number of training steps."""
        return STEPS if self.rate else START_STEPS

    def overrides(self, data: str) -> list[str]:
        """Return the cell's overrides, given the folder of the parquet files. All cells have equally many rollouts."""
        side_by_side = self.method == "cost"
        return [
            f"algorithm.adv_estimator={BASELINE if side_by_side else self.method}",
            f"study.side_by_side=[{','.join(METHODS) if side_by_side else ''}]",
            f"actor_rollout_ref.actor.optim.lr={self.rate:g}",
            f"actor_rollout_ref.rollout.n={self.n}",
            f"data.train_batch_size={ROLLOUTS_PER_STEP // self.n}",
            f"actor_rollout_ref.actor.ppo_mini_batch_size={ROLLOUTS_PER_UPDATE // self.n}",
            f"data.train_files={data}/{self.task}_train.parquet",
            f"data.val_files={data}/{self.task}_test.parquet",
            f"data.seed={self.seed}",
            f"trainer.total_training_steps={self.steps}",
            f"trainer.val_before_train={self.rate == 0}",
            f"algorithm.leaf.trace_every={STEPS if self.rate else 1}",
        ]


STARTS = tuple(Cell(task, "leaf", 0.0, 0) for task in TASKS)
"""Cells that measure the untrained model: their learning rate is 0."""
SWEEP = tuple(
    Cell(task, method, rate, seed) for seed in SWEEP_SEEDS for task in TASKS for rate in RATES for method in METHODS
)
COST = Cell(TASKS[0], "cost", RATES[0], 0)
"""The cell that measures a step's time: all estimators on the same rollouts, in turns. Run once, when nothing else runs."""


def best_rate(area: Callable[[Cell], float], task: str, method: str) -> float:
    """Return the learning rate with the largest area, averaged over the seeds of the sweep."""
    return max(RATES, key=lambda rate: sum(area(Cell(task, method, rate, seed)) for seed in SWEEP_SEEDS))


def reported(area: Callable[[Cell], float]) -> list[Cell]:
    """Return the cells to report, given the result of the sweep: seed by seed, those with K = 16 last.

    K = 16 has the learning rates of K = 8.
    """
    rates = {(task, method): best_rate(area, task, method) for task in TASKS for method in METHODS}
    eight = [Cell(task, method, rates[task, method], seed) for seed in SEEDS for task in TASKS for method in METHODS]
    return [
        *eight,
        *(Cell(EARLY_TASK, method, rates[EARLY_TASK, method], seed, 16) for seed in SEEDS for method in METHODS),
    ]


SCALE_TASKS, SCALE_RATE = ("translation", "register"), 3e-3
SCALE_SEEDS, MORE_SEEDS = tuple(range(7, 13)), tuple(range(7, 21))
SCALE_METHODS = ("grpo_floored", f"grpo_floored{AT_RMS_OF_GRPO}", f"leaf{AT_RMS_OF_GRPO}")
SECOND = (
    *(Cell("translation", "grpo_floored", SCALE_RATE, seed) for seed in SEEDS),
    *(
        Cell(task, method, SCALE_RATE, seed)
        for seed in MORE_SEEDS
        for task in SCALE_TASKS
        for method in ("grpo", "leaf", "grpo_prefix", "tempo", *(SCALE_METHODS if seed in SCALE_SEEDS else ()))
    ),
)
"""The cells of the second study (see README.md), all with one learning rate."""
SECOND_PAIRS = (
    (f"grpo_floored{AT_RMS_OF_GRPO}", "grpo_floored"),
    ("leaf", "grpo_floored"),
    (f"leaf{AT_RMS_OF_GRPO}", "leaf"),
    *((method, BASELINE) for method in ("leaf", "grpo_prefix", "tempo")),
)
"""The pairs of methods that the second study compares."""


def possible() -> list[Cell]:
    """Return every cell that can exist."""
    grid = [Cell(task, method, rate, seed) for seed in SEEDS for task in TASKS for rate in RATES for method in METHODS]
    more = [Cell(EARLY_TASK, method, rate, seed, 16) for seed in SEEDS for rate in RATES for method in METHODS]
    return list(dict.fromkeys([*STARTS, *SWEEP, *grid, *more, COST, *SECOND]))
