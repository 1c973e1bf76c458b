"""The trees of a checkpoint's answers without training: ``verl-leaf forks --model``."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from verl_leaf.algorithm.estimators import LeafOptions
from verl_leaf.common.answers import Row
from verl_leaf.common.console import Console
from verl_leaf.common.files import whole_file
from verl_leaf.common.progress import track
from verl_leaf.evaluate.command import sampling_of, vllm_arguments
from verl_leaf.evaluate.data import Data
from verl_leaf.evaluate.generate import Job, Sampling, sampling_engine
from verl_leaf.evaluate.systems import parse_system
from verl_leaf.rewards import REWARDS
from verl_leaf.training.estimator import Step, advantages, check_rewards
from verl_leaf.training.traces.schema import Head, file_name
from verl_leaf.training.traces.writer import prompts_of

PROMPTS = 16  # prompts whose trees are built together
STEP = 0  # step number written into the traces


def write_traces(options: argparse.Namespace, folder: Path) -> None:
    """Let a model answer each row several times, and write the trees (:mod:`verl_leaf.training.traces.schema`).

    Raises:
        ValueError: an option or input is wrong, or the engine stopped, or no row could be answered.
    """
    if options.rollouts < 2:
        raise ValueError(f"--rollouts {options.rollouts}: set it to 2 or more, because a single answer cannot fork")
    sampling, data = sampling_of(options, options.rollouts), Data(options.data)
    system = parse_system(options.model, options.base)
    if system.model is None:
        raise ValueError(
            f"--model {options.model}: a file of answers contains no tokens. Give the model that generates them"
        )
    jobs = [Job(0, row.row, k) for row in data.rows for k in range(options.rollouts)]
    with (
        whole_file(folder / file_name(STEP)) as temporary,
        sampling_engine(system, data, vllm_arguments(options.vllm)) as engine,
        temporary.open("w", encoding="utf-8") as file,
    ):
        file.write(Head(step=STEP, fork_budget=LeafOptions().fork_budget, credit="both").model_dump_json() + "\n")
        outputs = track(engine.outputs(data, jobs, sampling, logprobs=0), "Generating", len(jobs))
        groups, failed = _Groups(sampling, data, options.reward, engine.processor.tokenizer, folder), {}
        for job, output in outputs:
            if isinstance(output, str):
                failed[job.row] = output
            else:
                file.writelines(line + "\n" for line in groups.add(job, output))
        file.writelines(line + "\n" for line in groups.trees())
        if failed:
            row, why = next(iter(failed.items()))
            Console(stderr=True).print(f"{len(failed)} of {len(data.rows)} rows are left out. Row {row}: {why}")
        if len(failed) == len(data.rows):
            raise ValueError(f"{options.data}: no row could be answered")


class _Groups:
    """A collection of answers by row, which makes trees of rows with all their answers."""

    def __init__(self, sampling: Sampling, data: Data, reward: str, tokenizer, folder: Path):
        self.sampling, self.data, self.tokenizer, self.folder = sampling, data, tokenizer, folder
        self.reward = reward
        self.open: dict[int, list] = {}
        self.whole: dict[int, list] = {}

    def add(self, job: Job, output) -> list[str]:
        """Add an answer, and return the lines of the trees that could be built."""
        self.open.setdefault(job.row, []).append(output)
        if len(self.open[job.row]) == self.sampling.passes:
            self.whole[job.row] = self.open.pop(job.row)
        return self.trees() if len(self.whole) == PROMPTS else []

    def trees(self) -> list[str]:
        """Return one line for each row with all its answers, and drop these answers."""
        answers = [(row, output) for row, outputs in self.whole.items() for output in outputs]
        messages = dict(self.data.messages(self.whole))
        self.whole = {}
        if not answers:
            return []
        completions = [output.outputs[0] for _, output in answers]
        T = max(len(completion.token_ids) for completion in completions)
        responses = torch.zeros(len(answers), T, dtype=torch.long)
        log_probs, rewards = torch.zeros(len(answers), T), torch.zeros(len(answers), T)
        mask = torch.zeros(len(answers), T, dtype=torch.bool)
        for n, ((row, _), completion) in enumerate(zip(answers, completions, strict=True)):
            tokens = list(completion.token_ids)
            responses[n, : len(tokens)] = torch.tensor(tokens)
            sampled = [step[token].logprob for token, step in zip(tokens, completion.logprobs, strict=True)]
            log_probs[n, : len(tokens)] = torch.tensor(sampled)
            mask[n, : len(tokens)] = True
            rewards[n, len(tokens) - 1] = reward_of(self.reward, self.data.rows[row], completion.text)
        steps: list[Step] = []
        index = np.array([row for row, _ in answers])
        check_rewards(rewards, index)
        batch = {"responses": responses, "rollout_log_probs": log_probs}
        advantages("leaf", rewards, mask, index, batch=batch, report=steps.append)
        fields: dict[str, list[Any]] = {
            "prompts": [output.prompt_token_ids for _, output in answers],
            "raw_prompt": [messages[row] for row, _ in answers],
            "data_source": [self.data.rows[row].data_source for row, _ in answers],
            "reward_model": [{"ground_truth": list(self.data.rows[row].references)} for row, _ in answers],
        }
        [step] = steps
        assert step.credit.leaf is not None
        lines = prompts_of(step.rollouts, step.credit.leaf, fields, self.tokenizer, self.folder)
        return [line.model_dump_json() for line in lines]


def reward_of(name: str, row: Row, text: str) -> float:
    """Return the reward of an answer to a row."""
    reward: Callable[..., dict] = REWARDS[name]
    return float(reward(row.data_source, text, list(row.references), {"choices": list(row.choices)})["score"])
