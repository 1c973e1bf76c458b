"""Answers from vLLM's offline engine: all adapters of a model in one engine, each clip decoded once."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, cast

from rich.console import Console

from verl_leaf import __version__
from verl_leaf.answers import Answer
from verl_leaf.checks.model import model_config
from verl_leaf.checks.versions import check_vllm
from verl_leaf.cpu import vllm_distribution
from verl_leaf.evaluate.data import Data, Prompt
from verl_leaf.evaluate.store import Answers, answer_of, missing
from verl_leaf.evaluate.systems import System, digest
from verl_leaf.progress import track

IN_FLIGHT = 256  # requests that the engine has at a time
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has kernels for
CHANGES_ANSWERS = ("dtype", "kv_cache_dtype", "max_model_len", "quantization")  # of vLLM's settings


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. Nothing else is: settings that a model comes with do not count.

    Attributes:
        passes: answers to each row.
        temperature: 0 takes the most likely token each time.
        top_p, top_k: as vLLM has them; 1 and -1 leave all tokens in.
        max_tokens: the most tokens of an answer.
        seed: of all answers.
    """

    passes: int = 5
    temperature: float = 0.9
    top_p: float = 0.9
    top_k: int = 50
    max_tokens: int = 200
    seed: int = 0

    def seed_of(self, row: int, sample: int) -> int | None:
        """The seed of an answer, whatever else is generated, and when; None where nothing is drawn."""
        if self.temperature == 0:
            return None
        return int.from_bytes(hashlib.sha256(f"{self.seed} {sample} {row}".encode()).digest()[:6], "big")


def made_of(system: System, data: Data, sampling: Sampling, settings: dict[str, Any]) -> dict[str, Any]:
    """Everything that a system's answers depend on."""
    assert system.model is not None
    found = vllm_distribution.installed()
    return {
        "model": digest(system.model),
        "adapter": digest(system.adapter) if system.adapter else None,
        "data": data.digest(),
        "sampling": {key: value for key, value in dataclasses.asdict(sampling).items() if key != "passes"},
        "settings": {key: value for key, value in settings.items() if key in CHANGES_ANSWERS},
        "versions": {
            "verl-leaf": __version__,
            **{name: version(name) for name in ("torch", "transformers")},
            **(dict([found]) if found else {}),
        },
    }


def engine_settings(model: Path, data: Data, adapters: list[Path], given: dict[str, Any]) -> dict[str, Any]:
    """vLLM's arguments: what evaluation needs, and what the user gives, which wins."""
    settings: dict[str, Any] = {
        "model": str(model),
        "generation_config": "vllm",  # nothing but SamplingParams says how tokens are drawn
        "limit_mm_per_prompt": {"audio": max([1, *(len(row.audio) for row in data.rows)])},
    }
    if adapters:
        rank = max(json.loads((adapter / "adapter_config.json").read_text())["r"] for adapter in adapters)
        settings |= {
            "enable_lora": True,
            "max_lora_rank": min((known for known in LORA_RANKS if known >= rank), default=rank),
            "max_loras": min(len(adapters), 8),
            "max_cpu_loras": len(adapters),
        }
    if vllm_distribution.is_cpu_build():
        longest = model_config(str(model)).get_text_config().max_position_embeddings
        settings |= {
            "dtype": "float32",
            "enforce_eager": True,
            "max_num_seqs": 64,
            "distributed_executor_backend": "uni",
            # vLLM (0.27.1, gpu_model_runner.py _bookkeeping_sync) winds back the generator of a request whose prompt was
            # cut in two, and a CPU's cannot be.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(4096, longest),
        }
    return settings | given


def generate(
    model: Path,
    systems: list[tuple[System, Answers]],
    data: Data,
    sampling: Sampling,
    given: dict[str, Any],
    console: Console,
) -> None:
    """Generate all answers that are missing.

    Args:
        model: of all the systems.
        systems: with their files, which get the answers.
        data: the rows.
        sampling: how answers are drawn.
        given: vLLM's arguments, as the user has them.
        console: for the progress.

    Raises:
        ValueError: the engine cannot be started or stops; what it has answered is kept.
    """
    todo = {n: missing(own.found, len(data.rows), sampling.passes) for n, (_, own) in enumerate(systems)}
    total = sum(map(len, todo.values()))
    if not total:
        return
    console.print(
        f"{', '.join(system.name for system, _ in systems)}: {total} answers to generate; vLLM starts", markup=False
    )
    adapters = [system.adapter for system, _ in systems if system.adapter]
    try:
        engine = _Engine(engine_settings(model, data, adapters, given), systems)
        try:
            answers = engine.answers(data, sampling, todo)
            for number, answer in track(answers, "Generating", total, console):
                systems[number][1].append(answer)
        finally:
            engine.close()
    except (RuntimeError, NotImplementedError, AssertionError, KeyError, OSError) as error:
        # what libraries below raise, up to a device without memory; their log has said the rest
        raise ValueError(
            f"vLLM stopped: {' '.join(str(error).split())[:500]}: its log is above. The answers so far are kept, and the "
            "same command goes on"
        ) from error
    if engine.cut:
        console.print(f"{engine.cut} rows had audio that is longer than the model hears, and was cut", markup=False)


class _Job(NamedTuple):
    system: int
    row: int
    sample: int


class _Engine:
    """vLLM's engine with the adapters of the systems."""

    def __init__(self, settings: dict[str, Any], systems: list[tuple[System, Answers]]):
        check_vllm()
        vllm_distribution.install_alias()
        if vllm_distribution.is_cpu_build():  # as the recipes set it (recipes/common.sh)
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # it warns of its threads at every operator
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from verl.utils import hf_processor
        from vllm import EngineArgs, LLMEngine
        from vllm.lora.request import LoRARequest

        known = {field.name for field in dataclasses.fields(EngineArgs)}
        if unknown := sorted(settings.keys() - known):
            raise ValueError(f"--vllm {unknown[0]}: no argument of vLLM's engine")
        self.processor = hf_processor(settings["model"])
        self.engine = LLMEngine.from_engine_args(EngineArgs(**settings))
        self.adapters = {
            number: LoRARequest(system.name, number + 1, str(system.adapter.absolute()))
            for number, (system, _) in enumerate(systems)
            if system.adapter
        }
        for number, request in self.adapters.items():  # now, and not when the first answer is due
            try:
                self.engine.add_lora(request)
            except Exception as error:
                raise ValueError(f"{systems[number][0].adapter}: vLLM cannot load this adapter ({error})") from error
        self.cut = 0

    def answers(self, data: Data, sampling: Sampling, todo: dict[int, list]) -> Iterator[tuple[int, Answer]]:
        """Yield the number of a system and its answer, in the order in which they are done."""
        from vllm import RequestOutput

        jobs = self._jobs(data, todo)
        waiting: dict[str, _Job] = {}
        more = True
        while more or waiting:
            while more and len(waiting) < IN_FLIGHT:
                if (pair := next(jobs, None)) is None:
                    more = False
                    break
                job, prompt = pair
                if (error := self._add(job, prompt, sampling)) is None:
                    waiting[_request_id(job)] = job
                else:
                    yield job.system, _answer(data, job, "", sampling, finish="failed", error=error)
            for output in self.engine.step() if waiting else ():
                if isinstance(output, RequestOutput) and output.finished:
                    job, answer = waiting.pop(output.request_id), output.outputs[0]
                    finish = answer.finish_reason if answer.finish_reason in ("stop", "length") else "failed"
                    error = f"vLLM ended it: {answer.finish_reason}" if finish == "failed" else None
                    yield job.system, _answer(data, job, answer.text, sampling, finish=finish, error=error)

    def _jobs(self, data: Data, todo: dict[int, list]) -> Iterator[tuple[_Job, Prompt | ValueError]]:
        """Every answer to generate with its prompt, which all answers to a row share."""
        by_row: dict[int, list[_Job]] = {}
        for system, keys in todo.items():
            for row, sample in keys:
                by_row.setdefault(row, []).append(_Job(system, row, sample))
        for row, prompt in data.prompts(sorted(by_row), self.processor):
            self.cut += isinstance(prompt, Prompt) and prompt.cut
            for job in by_row[row]:
                yield job, prompt

    def _add(self, job: _Job, prompt: Prompt | ValueError, sampling: Sampling) -> str | None:
        """Give a request to the engine; why it cannot be answered, if so."""
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        if isinstance(prompt, ValueError):
            return str(prompt)
        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed_of(job.row, job.sample),
        )
        try:
            request = cast(TokensPrompt, prompt.request)
            self.engine.add_request(_request_id(job), request, parameters, lora_request=self.adapters.get(job.system))
        except ValueError as error:  # such as a prompt longer than the model takes
            return " ".join(str(error).split())
        return None

    def close(self) -> None:
        self.engine.engine_core.shutdown()


def _request_id(job: _Job) -> str:
    return f"{job.system}-{job.row}-{job.sample}"


def _answer(data: Data, job: _Job, text: str, sampling: Sampling, **others) -> Answer:
    return answer_of(data.rows[job.row], job.sample, text, seed=sampling.seed_of(job.row, job.sample), **others)
