"""The steps of ``verl-leaf credit``: rollouts, gradients of one prompt at a time, and their summary."""

import argparse
import dataclasses
import json
import math
import random
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch.nn.utils.rnn import pad_sequence

from verl_leaf.common.console import Console
from verl_leaf.common.files import LineStore, lock_folder, write_file
from verl_leaf.common.progress import track
from verl_leaf.common.tables import show
from verl_leaf.credit.gradients import TokenGradients
from verl_leaf.credit.signal import (
    CEILING,
    NAMES,
    Prompt,
    Signal,
    draw_groups,
    signals,
    step_advantages,
    summarise,
    verdict,
)
from verl_leaf.evaluate.answer_file import record
from verl_leaf.evaluate.command import sampling_of, vllm_arguments
from verl_leaf.evaluate.data import Data
from verl_leaf.evaluate.forks import reward_of
from verl_leaf.evaluate.generate import Job, Sampling, made_of, sampling_engine
from verl_leaf.evaluate.systems import System, parse_system
from verl_leaf.show.figures import COLOURS, save

ROLLOUTS = "rollouts.jsonl"
MEASURES = ("efficiency", "relative", "cosine")


def credit(options: argparse.Namespace) -> list[dict]:
    """Run the command.

    Raises:
        ValueError: an option or input is wrong, or the engine stopped. Finished work is kept, and the same call resumes
            there.
    """
    _check(options)
    console = Console()
    began = time.monotonic()
    # Rollouts are sampled as in training, not as in evaluation.
    training = {"temperature": 1.0, "top_p": 0.9, "top_k": -1}
    for name, value in training.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    sampling, data = sampling_of(options, options.rollouts), Data(options.data)
    system = parse_system(options.model, options.base)
    if system.model is None:
        raise ValueError(
            f"--model {options.model}: a file of answers has no gradients. Give the model that generates them"
        )
    if options.prompts > len(data.rows):
        console.print(
            f"{options.data} has only {len(data.rows)} rows, fewer than --prompts {options.prompts}. All of them are used"
        )
    rows = chosen_rows([row.row for row in data.rows], options.prompts, sampling.seed)
    with lock_folder(options.out):
        depends_on = made_of(system, data, sampling, vllm_arguments(options.vllm)) | {"reward": options.reward}
        record(options.out / ROLLOUTS, depends_on, "rollouts")
        rollouts = _rollouts(options, system, data, sampling, rows)
        prompts = {row: _prompt(rollouts, row, sampling.passes) for row in rows}
        depends_on |= {"rows": rows, "rollouts": options.rollouts, "group": options.group, "lora": options.lora}
        signal_file = options.out / f"signals{'_lora' if options.lora else ''}.jsonl"
        record(signal_file, depends_on, "signals")
        of_rows = _signals(options, signal_file, system, data, sampling, prompts)
        sizes, signals_of_prompts = zip(*(of_rows[row] for row in rows), strict=True)
        summary = summarise(sizes, signals_of_prompts)
        sentence = verdict(summary, len(rows))
        _write(options.out, summary, sentence, depends_on, console)
    console.print(f"{sentence} (This took {(time.monotonic() - began) / 60:.0f} min.)")
    return summary


def chosen_rows(numbers: list[int], count: int, seed: int) -> list[int]:
    """Return at most ``count`` of the row numbers, chosen at random and sorted."""
    return sorted(random.Random(seed).sample(numbers, min(count, len(numbers))))


def _check(options: argparse.Namespace) -> None:
    if options.group < 2:
        raise ValueError(
            f"--group {options.group}: set it to 2 or more, because responses are compared with each other"
        )
    if options.rollouts < 2 * options.group or options.rollouts % 2:
        raise ValueError(
            f"--rollouts {options.rollouts}: set it to an even number of at least {2 * options.group} (twice --group), because "
            "one half is for the groups and the other for the policy gradient"
        )
    if options.prompts < 2:
        raise ValueError(f"--prompts {options.prompts}: set it to 2 or more, because an interval needs two")


def _rollouts(
    options: argparse.Namespace, system: System, data: Data, sampling: Sampling, rows: list[int]
) -> dict[tuple[int, int], dict]:
    """Return the responses by row and sample. Missing ones are generated, each written to disk before the next."""
    store = LineStore(options.out / ROLLOUTS, lambda line: ((line["row"], line["sample"]), line), "rollout")
    jobs = [Job(0, row, k) for row in rows for k in range(sampling.passes) if (row, k) not in store.values]
    if not jobs:
        return store.values
    with sampling_engine(system, data, vllm_arguments(options.vllm)) as engine:
        outputs = track(engine.outputs(data, jobs, sampling, logprobs=0), "Generating", len(jobs))
        for job, output in outputs:
            if isinstance(output, str):
                raise ValueError(f"{options.data}, row {job.row}: {output}. Remove the row")
            completion = output.outputs[0]
            tokens = list(completion.token_ids)
            line = {
                "row": job.row,
                "sample": job.sample,
                "tokens": tokens,
                "log_probs": [step[token].logprob for token, step in zip(tokens, completion.logprobs, strict=True)],
                "reward": reward_of(options.reward, data.rows[job.row], completion.text),
            }
            store.append(json.dumps(line))
    return store.values


def _prompt(rollouts: dict[tuple[int, int], dict], row: int, passes: int) -> Prompt:
    lines = [rollouts[row, k] for k in range(passes)]
    return Prompt(
        tokens=pad_sequence([torch.tensor(line["tokens"]) for line in lines], batch_first=True),
        lengths=torch.tensor([len(line["tokens"]) for line in lines]),
        rewards=torch.tensor([line["reward"] for line in lines], dtype=torch.double),
        surprisal=pad_sequence([-torch.tensor(line["log_probs"]).double() for line in lines], batch_first=True),
    )


def _signals(
    options: argparse.Namespace, file: Path, system: System, data: Data, sampling: Sampling, prompts: dict[int, Prompt]
) -> dict[int, tuple[float, dict[str, Signal]]]:
    """Return the result of :func:`verl_leaf.credit.signal.signals` by row, each written to disk before the next is begun."""
    store = LineStore(file, _parsed, "signal of a prompt")
    missing = [row for row in prompts if row not in store.values]
    if missing:
        groups = draw_groups(len(prompts), options.rollouts, options.group, sampling.seed)
        advantages = step_advantages(list(prompts.values()), groups)
        place = {row: number for number, row in enumerate(prompts)}
        model = TokenGradients(system, options.lora, sampling.temperature, sampling.seed)
        for row, messages in track(data.messages(missing), "Gradients", len(missing)):
            of_row = {name: of_all[place[row]] for name, of_all in advantages.items()}
            factors = model.factors(messages, prompts[row])
            size, by_name = signals(prompts[row], groups[place[row]], of_row, factors)
            values = {name: dataclasses.astuple(signal) for name, signal in by_name.items()}
            store.append(json.dumps({"row": row, "size": size, "signals": values}))
    return store.values


def _parsed(line: dict) -> tuple[int, tuple[float, dict[str, Signal]]]:
    return line["row"], (line["size"], {name: Signal(*line["signals"][name]) for name in NAMES})


def _write(out: Path, rows: list[dict], sentence: str, depends_on: dict[str, Any], console: Console) -> None:
    lines = [
        [
            row["estimator"],
            *(f"{row[m]:.3f} ({row[f'{m}_low']:.3f} to {row[f'{m}_high']:.3f})" for m in MEASURES),
            f"{row['best']:.0%}",
        ]
        for row in rows
    ]
    columns = ("estimator", "efficiency", "relative to grpo", "cosine of a step", "best in")
    measured = [  # JSON has no NaN
        {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()}
        for row in rows
    ]
    content = {"verdict": sentence, "estimators": measured, "made_of": depends_on}
    write_file(out / "credit.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    save(out / "credit", _figure(rows), rows, console)
    show("Signal of a step (95 % intervals, bootstrap over prompts)", columns, lines, words=1, console=console)


def _figure(rows: list[dict]) -> Figure:
    figure = Figure(figsize=(9, 0.4 * len(rows) + 1), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    labels = {"efficiency": "efficiency of a step", "relative": "the same, relative to grpo"}
    for axis, (measure, label) in zip(axes, labels.items(), strict=True):
        for place, row in enumerate(rows):
            colour = "black" if row["estimator"] == CEILING else COLOURS[0]
            axis.plot([row[f"{measure}_low"], row[f"{measure}_high"]], [-place, -place], color=colour)
            axis.plot(row[measure], -place, "o", color=colour, markersize=4)
        axis.set_yticks([-place for place in range(len(rows))], [row["estimator"] for row in rows])
        axis.set_xlabel(label)
        axis.grid(alpha=0.25)
    axes[1].axvline(1, color="black", linewidth=0.8)
    return figure
