"""Trains softmax policies on simulated tasks with every estimator: minutes for what takes hours in the study.

    python -m examples.leaf_against_grpo.simulator [--out FOLDER]

An answer is a row of words, each one of four wordings, of which the policy chooses the right one with a probability of 1/4
before training. Tasks differ in how words make a reward, and in what the policies share between classes of prompts. As in
the study, each method has the learning rate with the largest area (mean reward of all rollouts) on seeds that are not
reported, and is compared with GRPO seed by seed. All methods of a seed see the same prompts and draw with the same random
numbers.

Also compute what `verl-leaf credit` predicts before training: the gain of a step with each estimator, relative to GRPO's,
from 64 rollouts of each class, and its rank correlation with the gain of training.

Write `simulator.md`, and `simulator.csv` with a row per task and method.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from examples.leaf_against_grpo.predicts import correlations
from examples.leaf_against_grpo.report import markdown
from verl_leaf.algorithm import grpo_advantages
from verl_leaf.algorithm.estimators import ESTIMATORS, Rollouts
from verl_leaf.common.console import Console
from verl_leaf.common.files import write_file
from verl_leaf.common.progress import track
from verl_leaf.credit.signal import Prompt, draw_groups, signals, step_advantages, summarise
from verl_leaf.show.curves import mean_and_interval
from verl_leaf.show.figures import write_csv

WORDINGS = 4
CLASSES = 12  # of prompts
FEATURES = 8  # of a class, if classes share parameters
PROMPTS, RESPONSES, STEPS = 4, 8, 40
KL_WEIGHT = 0.02
RATES = (0.2, 0.4, 0.8)
SWEEP_SEEDS, SEEDS, SIGNAL_SEEDS = range(1000, 1008), range(40), range(2000, 2008)


@dataclass(frozen=True)
class Task:
    """A simulated task.

    Attributes:
        reward: kind of reward. `add`: the share of right words; `bleu`: sentence BLEU; `first`: half for the first
            word, half for the others; `gate`: `add`, but 0 if the first word is wrong; `tree`: `add`, where the first
            word decides which of the others are right.
        words: number of words in an answer.
        features: whether classes share parameters, and so interfere; otherwise each class has its own.
        open: share of the words that are open before training; the others are right with a probability of 0.97.
    """

    reward: str
    words: int = 5
    features: bool = False
    open: float = 1.0

    @property
    def name(self) -> str:
        """The task's name, such as `bleu5_features`."""
        kind = "features" if self.features else "shared" if self.open == 1 else f"open{100 * self.open:.0f}"
        return f"{self.reward}{self.words}_{kind}"


TASKS = (
    Task("bleu"),
    Task("bleu", features=True),
    Task("add"),
    Task("bleu", words=10, open=0.3),
    Task("first"),
    Task("gate"),
    Task("tree"),
    Task("tree", features=True),
)


class World:
    """A task in several versions: the right words, the prompts, and the random numbers with which words are drawn.

    Letters: `S` seeds, `C` classes, `F` features, `P` prompts of a step, `K` responses, `D` words, `A` wordings, and `B`
    branches: four if the first word decides what is right later, else one.

    Args:
        task: the task.
        seeds: seed of each version; the same number gives the same version.
    """

    def __init__(self, task: Task, seeds: range):
        self.task, self.seeds = task, len(seeds)
        self.branches = WORDINGS if task.reward == "tree" else 1
        parts = [self._version(torch.Generator().manual_seed(seed)) for seed in seeds]
        self.features, self.right, self.start, self.classes, self.uniform = (
            torch.stack(part) for part in zip(*parts, strict=True)
        )

    def _version(self, draw: torch.Generator) -> tuple[Tensor, ...]:
        task, D = self.task, self.task.words
        features = (
            torch.randn(CLASSES, FEATURES, generator=draw) / FEATURES**0.5 if task.features else torch.eye(CLASSES)
        )
        right = torch.randint(WORDINGS, (CLASSES, D, self.branches), generator=draw)
        is_open = torch.rand(CLASSES, D, generator=draw).argsort().argsort() < round(task.open * D)
        settled = torch.tensor(0.97 / 0.01).log() * ~is_open[..., None, None]
        classes = torch.randint(CLASSES, (STEPS, PROMPTS), generator=draw)
        uniform = torch.rand(STEPS, PROMPTS, RESPONSES, D, generator=draw)
        return features.double(), right, settled.double() * one_hot(right, WORDINGS), classes, uniform.double()

    def untrained(self) -> Tensor:
        """Return the weights `[S, F, D, B, A]` that training starts from."""
        return torch.zeros(self.seeds, self.features.shape[2], *self.start.shape[2:]).double()

    def log_probs(self, classes: Tensor, weights: Tensor) -> Tensor:
        """Return the log-probabilities `[S, P, D, B, A]` for prompts of classes `[S, P]`."""
        seed = torch.arange(self.seeds)[:, None]
        logits = torch.einsum("spf,sfdba->spdba", self.features[seed, classes], weights)
        return (logits + self.start[seed, classes]).log_softmax(-1)

    def draw(self, log_probs: Tensor, uniform: Tensor) -> Tensor:
        """Return the words for uniform numbers, both `[S, P, K, D]`."""
        first = (uniform[..., :1] > log_probs[:, :, None, 0, 0].exp().cumsum(-1)[..., :-1]).sum(-1)
        chances = self.of_branch(log_probs, first).exp()
        return (uniform[..., None] > chances.cumsum(-1)[..., :-1]).sum(-1)

    def of_branch(self, values: Tensor, first: Tensor) -> Tensor:
        """Select from `values [S, P, D, B, ...]` the branch of each first word `[S, P, K]`: `[S, P, K, D, ...]`."""
        s, p = (torch.arange(n) for n in values.shape[:2])
        branch = self.branch(first)
        return values[s[:, None, None, None], p[:, None, None], torch.arange(values.shape[2]), branch]

    def branch(self, first: Tensor) -> Tensor:
        """Return the branch of each word, `[S, P, K, D]`; the first word is in branch 0."""
        return first[..., None] % self.branches * (torch.arange(self.task.words) > 0)

    def reward(self, classes: Tensor, words: Tensor) -> Tensor:
        """Return the reward `[S, P, K]` of words `[S, P, K, D]`."""
        right = self.right[torch.arange(self.seeds)[:, None], classes]
        hit = (words == self.of_branch(right, words[..., 0])).double()
        if self.task.reward == "bleu":
            return _bleu(hit)
        if self.task.reward == "first":
            return (hit[..., 0] + hit[..., 1:].mean(-1)) / 2
        return hit.mean(-1) * (hit[..., 0] if self.task.reward == "gate" else 1)

    def gradient(self, classes: Tensor, first: Tensor, of_logits: Tensor) -> Tensor:
        """Return the weights' gradient `[S, F, D, B, A]`, given that of the logits of each drawn word, `[S, P, K, D, A]`."""
        features = self.features[torch.arange(self.seeds)[:, None], classes]
        branch = one_hot(self.branch(first), self.branches).double()
        return torch.einsum("spf,spkdb,spkda->sfdba", features, branch, of_logits)


def _bleu(hit: Tensor) -> Tensor:
    """Return sentence BLEU, smoothed as by sacrebleu (`exp`), given which words are right. All words of an answer differ."""
    logs = torch.zeros(hit.shape[:-1]).double()
    misses = torch.zeros_like(logs)
    for n in range(1, 5):
        matches = hit.unfold(-1, n, 1).prod(-1).sum(-1)
        misses += matches == 0
        logs += (torch.where(matches == 0, 0.5**misses, matches) / (hit.shape[-1] - n + 1)).log() / 4
    return logs.exp() * (hit.sum(-1) > 0)


Method = Callable[[Rollouts, int], Tensor]
"""Function of the rollouts of some seeds and the number of seeds that returns advantages `[N, D]`. Each seed has equally
many rows, one seed after the other."""


def estimator(name: str) -> Method:
    """Return one of our estimators, or verl's `grpo`, for all seeds at once."""
    if name == "grpo":
        return lambda rollouts, seeds: grpo_advantages(rollouts.rewards, rollouts.group)[:, None] * rollouts.mask
    row = ESTIMATORS[name]

    def advantages(rollouts: Rollouts, seeds: int) -> Tensor:
        return row.function(rollouts, row.options()).advantages

    return seed_by_seed(advantages) if name == "grpo_prefix" else advantages


def seed_by_seed(method: Method) -> Method:
    """Apply a method that looks at a whole batch, as `grpo_prefix` does for `kappa`, to one seed after the other."""

    def apart(rollouts: Rollouts, seeds: int) -> Tensor:
        columns = (rollouts.tokens, rollouts.mask, rollouts.rewards, rollouts.group)
        parts = zip(*(column.chunk(seeds) for column in columns), strict=True)
        return torch.cat([method(Rollouts(*own, group - group[0]), 1) for *own, group in parts])

    return apart


def at_rms_of_grpo(method: Method) -> Method:
    """Scale a method's advantages so that their root mean square in each step is that of GRPO's."""

    def scaled(rollouts: Rollouts, seeds: int) -> Tensor:
        own, grpo = (x.view(seeds, -1) for x in (method(rollouts, seeds), estimator("grpo")(rollouts, seeds)))
        factor = grpo.norm(dim=1, keepdim=True) / own.norm(dim=1, keepdim=True).clamp(min=1e-9)
        return (own * factor).view(rollouts.tokens.shape)

    return scaled


METHODS: dict[str, Method] = {
    **{name: estimator(name) for name in ("grpo", *ESTIMATORS)},
    "grpo_floored at GRPO's RMS": at_rms_of_grpo(estimator("grpo_floored")),
    "leaf at GRPO's RMS": at_rms_of_grpo(estimator("leaf")),
}


def train(task: Task, method: Method, rate: float, seeds: range) -> Tensor:
    """Train a policy per seed with Adam, an update per step; return the mean reward of each step's rollouts, `[S, STEPS]`."""
    world = World(task, seeds)
    base = weights = world.untrained()
    first, second = torch.zeros_like(weights), torch.zeros_like(weights)
    group = torch.arange(world.seeds * PROMPTS).repeat_interleave(RESPONSES)
    rewards = []
    for step in range(STEPS):
        classes = world.classes[:, step]
        log_probs = world.log_probs(classes, weights)
        words = world.draw(log_probs, world.uniform[:, step])
        reward = world.reward(classes, words)
        rewards.append(reward.mean((1, 2)))
        own = world.of_branch(log_probs, words[..., 0])
        surprisal, of_base = (
            -x.gather(-1, words[..., None])[..., 0]
            for x in (own, world.of_branch(world.log_probs(classes, base), words[..., 0]))
        )
        tokens = words.view(-1, task.words)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        rollouts = Rollouts(tokens, mask, reward.flatten(), group, surprisal=surprisal.view(tokens.shape))
        kl = 1 - (surprisal - of_base).exp()  # what the gradient of k3 gives a token
        pushed = method(rollouts, world.seeds).view(words.shape) - KL_WEIGHT * kl
        score = pushed[..., None] * (one_hot(words, WORDINGS) - own.exp())
        gradient = world.gradient(classes, words[..., 0], score / (PROMPTS * RESPONSES * task.words))
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient.square()
        size = (second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
        weights = weights + rate * first / (1 - 0.9 ** (step + 1)) / size
    return torch.stack(rewards, 1)


def results(console: Console) -> Iterator[dict]:
    """Yield a row per task and method: its learning rate, and how far area and last reward exceed GRPO's, times 100."""
    cells = list(itertools.product(TASKS, METHODS))
    grpo: dict[Task, Tensor] = {}
    for task, name in track(cells, "Simulating", len(cells), console):
        areas = {rate: train(task, METHODS[name], rate, SWEEP_SEEDS).mean().item() for rate in RATES}
        rate = max(areas, key=lambda rate: areas[rate])
        reward = 100 * train(task, METHODS[name], rate, SEEDS)
        gain = reward - grpo.setdefault(task, reward)
        row = {"task": task.name, "method": name, "rate": rate, "area": reward.mean().item()}
        for what, values in {"gain": gain.mean(1), "last": gain[:, -5:].mean(1)}.items():
            row[what], row[f"{what}_half"] = mean_and_interval(values.tolist())
        yield row


def signal_before(task: Task, rollouts: int = 64) -> dict[str, float]:
    """Return, by estimator, the gain of a step relative to GRPO's before training (:mod:`verl_leaf.credit.signal`)."""
    world = World(task, SIGNAL_SEEDS)
    classes = torch.arange(CLASSES).expand(world.seeds, -1)
    log_probs = world.log_probs(classes, world.untrained())
    uniform = torch.rand(world.seeds, CLASSES, rollouts, task.words, generator=torch.Generator().manual_seed(0))
    words = world.draw(log_probs, uniform.double())
    own = world.of_branch(log_probs, words[..., 0])
    surprisal = -own.gather(-1, words[..., None])[..., 0]
    score = one_hot(words, WORDINGS) - own.exp()
    # Words in the same place and branch have the same logits, whatever is between them.
    place = one_hot(world.branch(words[..., 0]) + world.branches * torch.arange(task.words)).double()
    columns = [x.flatten(0, 1) for x in (words, world.reward(classes, words), surprisal, score, place)]
    prompts, factors = [], []
    for tokens, rewards, nats, *of_edges in zip(*columns, strict=True):
        prompts.append(Prompt(tokens, torch.full((rollouts,), task.words), rewards, nats))
        row, position = prompts[-1].edges()[1].T
        factors.append([factor[row, position] for factor in of_edges])
    groups = draw_groups(len(prompts), rollouts, RESPONSES, seed=0)
    advantages = step_advantages(prompts, groups)
    found = [
        signals(prompt, groups[n], {name: of[n] for name, of in advantages.items()}, factors[n])
        for n, prompt in enumerate(prompts)
    ]
    summary = summarise([size for size, _ in found], [of_prompt for _, of_prompt in found])
    return {row["estimator"]: row["relative"] for row in summary}


def table(rows: list[dict], value: Callable[[dict], str]) -> str:
    """Return a table of values by task and method, as Markdown."""
    cells = {(row["task"], row["method"]): value(row) for row in rows}
    others = [name for name in METHODS if name != "grpo"]
    return markdown(
        ["task", *others], [[f"`{task.name}`", *(cells[task.name, name] for name in others)] for task in TASKS]
    )


def predicted(rows: list[dict]) -> str:
    """Say how well the signal of a step predicts the ranking of estimators after training."""
    known = [
        [(row["signal"], row["gain"]) for row in rows if row["task"] == task.name and row["signal"]] for task in TASKS
    ]
    return f"Rank correlation of both tables (95 % interval, bootstrap over tasks): {correlations(known)}"


def report(rows: list[dict]) -> str:
    """Return the tables, as Markdown."""
    return "\n\n".join(
        [
            "**Area above GRPO's**, x 100, each at its own learning rate",
            table(rows, lambda row: f"{row['gain']:+.1f} ± {row['gain_half']:.1f}"),
            "**Gain of a step relative to GRPO's**, before training",
            table(rows, lambda row: f"{row['signal']:.2f}" if row["signal"] else ""),
            predicted(rows),
        ]
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/simulator"), help="folder (default: %(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    signal = {task.name: signal_before(task) for task in TASKS}
    rows = [row | {"signal": signal[row["task"]].get(row["method"])} for row in results(Console(stderr=True))]
    rows = [row | {"signal": None if row["method"] == "grpo" else row["signal"]} for row in rows]
    write_csv(args.out / "simulator.csv", rows)
    write_file(args.out / "simulator.md", report(rows) + "\n")
    Console().print(report(rows))
