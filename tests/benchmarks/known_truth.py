"""What the intervals of `verl-leaf evaluate` cover, and how often its test errs, on data whose truth is known.

    python -m tests.benchmarks.known_truth            # the tables of README.md, a minute

Clips have one to four rows, each row five passes. A clip, a row and a pass each add to what an answer scores.
"""

import argparse
from collections.abc import Callable

import numpy as np

from verl_leaf.evaluate.metrics import ScoreOptions, Scorer, build, judged
from verl_leaf.evaluate.significance import FEWEST_FOR_A_TEST, interval, p_value

CLIPS = (3, 5, 10, 20, 30, 64, 100)
ROWS, PASSES = 4, 5
LEAST = 0.05  # share of trials that must have an interval for its coverage to be a number
Draw = Callable[[np.random.Generator, np.ndarray], tuple[np.ndarray, np.ndarray]]
# An answer's shape is [C, T, rows, P]: clips, trials, rows of the clip, passes.


def _effects(draw: Callable[[tuple[int, ...]], np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Return independent effects of clips, rows and passes, added up."""
    C, T, R, P = shape
    return sum((draw(own) for own in ((C, T, 1, 1), (C, T, R, 1), (C, T, R, P))), np.zeros(shape))


def _normal(rng, counts):
    return _effects(lambda shape: rng.normal(size=shape), (*counts.shape, ROWS, PASSES))


def _by_size(rng, counts):
    return counts[..., None, None] + _normal(rng, counts)


def _skewed(rng, counts):
    shape = (*counts.shape, ROWS, PASSES)
    return rng.exponential(size=(*counts.shape, 1, 1)) + 0.3 * rng.exponential(size=shape)


def _heavy_tailed(rng, counts):
    shape = (*counts.shape, ROWS, PASSES)
    return np.exp(0.8 * rng.normal(size=(*counts.shape, 1, 1)) + 0.3 * rng.normal(size=shape))


def _near_the_end(rng, counts):
    quality = rng.beta(5, 0.5, size=(*counts.shape, 1, 1))
    return rng.binomial(10, np.broadcast_to(quality, (*counts.shape, ROWS, PASSES))) / 10


def _rare(rate: float) -> Callable:
    def draw(rng, counts):
        chance = rng.beta(rate, 1 - rate, size=(*counts.shape, 1, 1))  # answers to a clip correlate by one half
        return (rng.random((*counts.shape, ROWS, PASSES)) < chance).astype(float)

    return draw


def _errors(rng, counts):
    """Errors of each answer: a few, and now and then one that repeats itself; the words are in ``words``."""
    words = rng.integers(4, 20, size=(*counts.shape, ROWS, 1))
    share = rng.beta(1, 3, size=(*counts.shape, 1, 1))
    errors = rng.binomial(np.broadcast_to(words, (*counts.shape, ROWS, PASSES)), share)
    repeats = rng.random((*counts.shape, ROWS, PASSES)) < 0.02
    return errors + 2 * words * repeats, np.broadcast_to(words, errors.shape)


FREE, SHARE, RATE = judged("", "", "da", (-1e9, 1e9)), judged("", "", "da", (0, 1)), build("wer", ScoreOptions())
# Name -> how answers are drawn, what scores them, and the true score.
CASES: dict[str, tuple[Callable, Scorer, float]] = {
    "normal": (_normal, FREE, 0.0),
    "higher in clips with more rows": (_by_size, FREE, 3.0),
    "skewed (exponential)": (_skewed, FREE, 1.3),
    "heavy tail (log-normal)": (_heavy_tailed, FREE, float(np.exp(0.32 + 0.045))),
    "grades near the best": (_near_the_end, SHARE, 10 / 11),
    "word error rate": (_errors, RATE, 0.29),
    "seen in 30 %": (_rare(0.3), SHARE, 0.3),
    "rare, 10 %": (_rare(0.1), SHARE, 0.1),
    "rare, 2 %": (_rare(0.02), SHARE, 0.02),
}


def draw(case: str, clips: int, trials: int, systems: int, seed: int = 0, noisier: float = 1.0) -> list[np.ndarray]:
    """Return statistics ``[C, T, P, 2]`` of some systems that do not differ, on the same rows.

    Args:
        case: a key of ``CASES``.
        clips: C.
        trials: T.
        systems: how many.
        seed: of everything.
        noisier: factor of the noise of the last system.
    """
    rng = np.random.default_rng([seed, clips, list(CASES).index(case)])
    counts = rng.integers(1, ROWS + 1, size=(clips, trials))
    there = (np.arange(ROWS) < counts[..., None])[..., None]
    found, words = [], None
    for number in range(systems):
        values = CASES[case][0](rng, counts)
        values, own = values if isinstance(values, tuple) else (values, np.ones(values.shape))
        words = own if words is None else words
        values = values * words / own  # errors in the words of the first
        if number == systems - 1 and noisier != 1:
            values = CASES[case][2] + noisier * (values - CASES[case][2])
        found.append(np.stack([(values * there).sum(axis=2), (words * there).sum(axis=2)], axis=-1))
    return found


def coverage(case: str, clips: int, trials: int, systems: int = 1) -> tuple[float, float]:
    """Return the share of trials that have an interval, and the share of these whose interval holds the truth."""
    low, high = interval(CASES[case][1], *draw(case, clips, trials, systems))
    truth, there = CASES[case][2] if systems == 1 else 0.0, ~np.isnan(low)
    held = (low <= truth + 1e-9) & (truth - 1e-9 <= high)
    return float(there.mean()), float(held[there].mean()) if there.any() else np.nan


def errors(case: str, clips: int, trials: int, noisier: float = 1.0, swaps: int = 500) -> float | None:
    """Return the share of trials with p <= 0.05, where systems do not differ; None if nothing is tested."""
    if clips < FEWEST_FOR_A_TEST:
        return None
    one, other = draw(case, clips, trials, 2, 1, noisier)
    return float((p_value(CASES[case][1], one, other, swaps) <= 0.05).mean())


def cell(share: float, held: float) -> str:
    return "-" if share < LEAST else f"{100 * held:.1f}"


def table(title: str, lines: dict[str, list[str]]) -> str:
    head = [f"| {title} | {' | '.join(map(str, CLIPS))} |", "| --- |" + " --- |" * len(CLIPS)]
    return "\n".join([*head, *(f"| {name} | {' | '.join(cells)} |" for name, cells in lines.items())])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=4000)
    parser.add_argument("--test-trials", type=int, default=1000)
    options = parser.parse_args()
    for title, systems in (("% of intervals of a score that hold it", 1), ("... of a difference", 2)):
        lines = {case: [cell(*coverage(case, clips, options.trials, systems)) for clips in CLIPS] for case in CASES}
        print(table(title, lines), end="\n\n")
    lines = {}
    for case, noisier in [*((case, 1.0) for case in CASES), ("normal", 4.0), ("skewed (exponential)", 4.0)]:
        found = [errors(case, clips, options.test_trials, noisier) for clips in CLIPS]
        name = case if noisier == 1 else f"{case}, one system {noisier:g} times noisier"
        lines[name] = ["-" if share is None else f"{100 * share:.1f}" for share in found]
    print(table("% of tests with p <= 0.05 without a difference", lines))


if __name__ == "__main__":
    main()
