"""How well advantages push a model towards what is right: on the same rollouts, as LEAF and as GRPO pay them.

These tasks know what no real one does: which of an answer's wordings are the reference's. For a decision of a prompt, the
policy gradient pushes the right wording's logit by `sum_i A_i (right_i - p)` over its responses i, where A is the
advantage (the mean over the wording's tokens) and p the wording's probability. A method's pushes have a mean, which is
what is learnt, and a spread, which is noise.
"""

import functools
import itertools
import re
import statistics
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet
import torch

from examples.leaf_against_grpo import tasks
from examples.spoken_german import phrases
from verl_leaf.algorithm import grpo_advantages
from verl_leaf.show.traces import traces_folder
from verl_leaf.traces.reader import read_trace, trace_files
from verl_leaf.traces.schema import Prompt


def quality(run: Path, task: str, data: Path) -> dict[str, float]:
    """What a LEAF run's advantages are worth, over all decisions of all traced prompts.

    Args:
        run: folder of the cell.
        task: its task.
        data: folder of the tasks' parquet files.

    Returns:
        On the same rollouts `signal_leaf` and `signal_grpo`, the mean of the pushes over their standard deviation, with
        the share of right wordings in a step as p; and `sum_leaf` and `sum_grpo`, the standard deviation of the sum of a
        decision's advantages over the prompt's responses.
    """
    pushes, sums = defaultdict(list), defaultdict(list)
    for step, file in trace_files(traces_folder(run)).items():
        prompts = read_trace(step, file, []).prompts.values()
        decisions = [own for prompt in prompts for own in wordings(prompt, _exercise(prompt, task, data)).values()]
        p = statistics.fmean(right for own in decisions for right, *_ in own)
        for own in decisions:
            for column, method in enumerate(("leaf", "grpo"), start=1):
                pushes[method].append(sum(row[column] * (row[0] - p) for row in own))
                sums[method].append(sum(row[column] for row in own))
    return {
        **{f"signal_{name}": statistics.fmean(own) / statistics.stdev(own) for name, own in pushes.items()},
        **{f"sum_{name}": statistics.stdev(own) for name, own in sums.items()},
    }


def wordings(prompt: Prompt, exercise: phrases.Exercise) -> dict[int, list[tuple[float, float, float]]]:
    """For each decision that had alternatives, of every acceptable wording: is it right, its LEAF and GRPO advantage."""
    rewards = torch.tensor([response.reward for response in prompt.responses], dtype=torch.float64)
    grpo = grpo_advantages(rewards, torch.zeros(len(rewards), dtype=torch.long)).tolist()
    found = defaultdict(list)
    for response, of_grpo in zip(prompt.responses, grpo, strict=True):
        paid = [0.0] * len(response.tokens)
        for span in response.spans:
            paid[span.start : span.end] = [span.advantage] * (span.end - span.start)
        of_character = [token for token, piece in enumerate(response.pieces[:-1]) for _ in piece]
        text = "".join(response.pieces[:-1])
        words = [match.span() for match in re.finditer(r"\S+", text)]
        first = 0
        for decision, (said, option) in enumerate(zip(exercise.heard(text), exercise.options, strict=True)):
            last = first + (len(said.split()) if said else 1)
            if said and len(option) > 1:
                tokens = sorted(set(of_character[words[first][0] : words[last - 1][1]]))
                leaf = statistics.fmean(paid[token] for token in tokens)
                found[decision].append((float(said == next(iter(option))), leaf, of_grpo))
            first = last
    return found


def _exercise(prompt: Prompt, task: str, data: Path) -> phrases.Exercise:
    sentence = _sentences(data / f"{task}_train.parquet")[Path(prompt.audio[0]).name]
    return tasks.exercises(sentence)[task]


@functools.cache
def _sentences(file: Path) -> dict[str, phrases.Sentence]:
    """The sentence of each clip, by its file's name."""
    by_words = {phrases.english(sentence): sentence for sentence in itertools.product(*phrases.SLOTS.values())}
    rows = pyarrow.parquet.read_table(file, columns=["audios", "extra_info"]).to_pylist()
    return {Path(row["audios"][0]).name: by_words[row["extra_info"]["sentence"]] for row in rows}
