"""How well advantages tell right wordings from wrong ones: on the same rollouts, as LEAF and as GRPO pay them.

These tasks know what no real one does: which of an answer's wordings are the reference's. So each wording's advantage
(the mean over its tokens) can be held against that.
"""

import functools
import itertools
import re
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent / "spoken_german"))

import phrases  # noqa: E402
import tasks  # noqa: E402
from verl_leaf.show.traces import Prompt, read_trace, trace_files, traces_folder  # noqa: E402


def quality(run: Path, task: str, data: Path) -> dict[str, float]:
    """How well a LEAF run's advantages tell right from wrong, over all traced steps.

    Args:
        run: folder of the cell.
        task: its task.
        data: folder of the tasks' parquet files.

    Returns:
        `credit_leaf` and `credit_grpo`, the correlation of a wording's advantage with its being the reference, on the
        same rollouts; and `size`, the standard deviation of LEAF's advantages over that of GRPO's.
    """
    rows = [
        row
        for step, file in trace_files(traces_folder(run)).items()
        for prompt in read_trace(step, file, []).prompts.values()
        for row in wordings(prompt, _exercise(prompt, task, data))
    ]
    right, leaf, grpo = zip(*rows, strict=True)
    return {
        "credit_leaf": statistics.correlation(right, leaf),
        "credit_grpo": statistics.correlation(right, grpo),
        "size": statistics.stdev(leaf) / statistics.stdev(grpo),
    }


def wordings(prompt: Prompt, exercise: phrases.Exercise) -> Iterator[tuple[float, float, float]]:
    """Of each acceptable wording that had an alternative: is it the reference's, its LEAF and its GRPO advantage."""
    rewards = [response.reward for response in prompt.responses]
    mean, spread = statistics.fmean(rewards), statistics.stdev(rewards)
    for response in prompt.responses:
        paid = [0.0] * len(response.tokens)
        for span in response.spans:
            paid[span.start : span.end] = [span.advantage] * (span.end - span.start)
        of_character = [token for token, piece in enumerate(response.pieces[:-1]) for _ in piece]
        text = "".join(response.pieces[:-1])
        words = [match.span() for match in re.finditer(r"\S+", text)]
        first = 0
        for said, option in zip(exercise.heard(text), exercise.options, strict=True):
            last = first + (len(said.split()) if said else 1)
            if said and len(option) > 1:
                tokens = sorted(set(of_character[words[first][0] : words[last - 1][1]]))
                leaf = statistics.fmean(paid[token] for token in tokens)
                grpo = (response.reward - mean) / (spread + 1e-6)
                yield float(said == next(iter(option))), leaf, grpo
            first = last


def _exercise(prompt: Prompt, task: str, data: Path) -> phrases.Exercise:
    sentence = _sentences(data / f"{task}_train.parquet")[Path(prompt.audio[0]).name]
    return tasks.exercises(sentence)[task]


@functools.cache
def _sentences(file: Path) -> dict[str, phrases.Sentence]:
    """The sentence of each clip, by its file's name."""
    by_words = {phrases.english(sentence): sentence for sentence in itertools.product(*phrases.SLOTS.values())}
    rows = pyarrow.parquet.read_table(file, columns=["audios", "extra_info"]).to_pylist()
    return {Path(row["audios"][0]).name: by_words[row["extra_info"]["sentence"]] for row in rows}
