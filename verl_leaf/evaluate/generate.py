"""Generation of answers with vLLM's offline engine: one engine for all adapters of a model, each clip decoded once."""

import dataclasses
import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, cast

from verl_leaf import __version__
from verl_leaf.checks.model import model_config, model_digest
from verl_leaf.checks.versions import check_vllm
from verl_leaf.common import vllm_distribution
from verl_leaf.common.answers import Answer
from verl_leaf.common.console import Console
from verl_leaf.common.progress import track
from verl_leaf.evaluate.answer_file import AnswerFile
from verl_leaf.evaluate.data import Data, Prompt
from verl_leaf.evaluate.systems import System
from verl_leaf.models import FAMILIES
from verl_leaf.runs.adapters import lora_rank, max_lora_rank

IN_FLIGHT = 256  # largest number of requests in the engine
# vLLM's arguments that change how fast answers come but not the answers. All others are part of ``made_of``.
CHANGES_NOTHING = (
    "gpu_memory_utilization",
    "kv_cache_memory_bytes",
    "cpu_offload_gb",
    "max_num_seqs",
    "max_cpu_loras",
    "max_loras",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "distributed_executor_backend",
    "max_parallel_loading_workers",
    "download_dir",
    "use_tqdm_on_load",
    "disable_log_stats",
)


@dataclass(frozen=True)
class Sampling:
    """The sampling of answers. A model's own generation settings are not used."""

    passes: int = 5  # answers per row
    temperature: float = 0.9  # sampling temperature; 0 means greedy decoding
    # Limits as in vLLM; 1 and -1 keep all tokens.
    top_p: float = 0.9
    top_k: int = 50
    max_tokens: int = 200  # most tokens of an answer
    seed: int = 0  # seed of all answers

    def seed_of(self, row: int, sample: int) -> int | None:
        """Return the seed of an answer, which depends on nothing else that is generated; None for greedy decoding."""
        if self.temperature == 0:
            return None
        return int.from_bytes(hashlib.sha256(f"{self.seed} {sample} {row}".encode()).digest()[:6], "big")


def made_of(system: System, data: Data, sampling: Sampling, settings: dict[str, Any]) -> dict[str, Any]:
    """Return everything that a system's answers depend on."""
    assert system.model is not None
    vllm = vllm_distribution.installed()
    return {
        "model": model_digest(system.model),
        "adapter": model_digest(system.adapter) if system.adapter else None,
        "data": data.digest(),
        **({"control": data.control} if data.control else {}),
        "sampling": {key: value for key, value in dataclasses.asdict(sampling).items() if key != "passes"},
        "settings": {key: value for key, value in sorted(settings.items()) if key not in CHANGES_NOTHING},
        "versions": {
            "verl-leaf": __version__,
            **{name: version(name) for name in ("torch", "transformers")},
            **(dict([vllm]) if vllm else {}),
        },
    }


def engine_settings(model: Path, data: Data, adapters: list[Path], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return vLLM's arguments: those of evaluation, overridden by the user's."""
    family = FAMILIES.get(model_config(str(model)).model_type)
    of_family = family.vllm_settings if family else {}
    clips = max([1, *(len(row.audio) for row in data.rows)])
    settings: dict[str, Any] = {
        "model": str(model),
        "use_tqdm_on_load": False,
        "generation_config": "vllm",  # only SamplingParams determines how tokens are sampled
        "limit_mm_per_prompt": {"audio": clips, **of_family.pop("limit_mm_per_prompt", {})},
        **of_family,
        # As in verl's rollout engine. A clip may have at most this many tokens (v1/core/encoder_cache_manager.py); vLLM's default
        # of 2048 would be 82 s.
        "max_num_batched_tokens": 8192,
    }
    if adapters:
        settings |= {
            "enable_lora": True,
            "max_lora_rank": max_lora_rank(max(map(lora_rank, adapters))),
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
            # vLLM (0.27.1, gpu_model_runner.py _bookkeeping_sync) resets the random generator of a request whose prompt was split
            # into two chunks, which a generator on a CPU does not support.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(4096, longest),
        }
        if adapters:
            # In a batch with adapters, vLLM applies the adapter of the last slot to requests without one (0.27.1,
            # torch_ops/lora_ops.py uses -1 as an index). So the last slot is left empty.
            settings["max_loras"] = settings["max_cpu_loras"] = len(adapters) + 1
    return settings | overrides


def generate(
    model: Path, files: list[tuple[System, AnswerFile]], data: Data, sampling: Sampling, overrides: dict[str, Any]
) -> None:
    """Generate all missing and failed answers of systems on one model, and add them to the systems' files.

    Raises:
        ValueError: the engine cannot be started, or stops. Its answers are kept, and the same call resumes there.
    """
    jobs = [
        Job(number, row, sample)
        for number, (_, file) in enumerate(files)
        for row, sample in file.missing(len(data.rows), sampling.passes)
    ]
    if not jobs:
        return
    data.check_prompts(model)
    systems = [system for system, _ in files]
    names = ", ".join(system.name for system in systems)
    Console(stderr=True).print(f"{names}: {len(jobs)} answers to generate. Starting vLLM")
    with started(model, systems, data, overrides) as engine:
        outputs = engine.outputs(data, jobs, sampling)
        for job, output in track(outputs, "Generating", len(jobs)):
            answer, file = _answer(data, job, output, sampling), files[job.system][1]
            if answer != file.values.get((job.row, job.sample)):  # it may be the same failure again
                file.append(answer.to_json())


class Job(NamedTuple):
    """An answer to generate: the numbers of its system, its row, and its sample."""

    system: int
    row: int
    sample: int


class Engine:
    """vLLM's engine with the adapters of some systems on one model, given as number -> name and adapter.

    Raises:
        ValueError: vLLM is missing or too old, has no such argument, or cannot load an adapter.
    """

    def __init__(self, settings: dict[str, Any], adapters: Mapping[int, tuple[str, Path]]):
        check_vllm()
        vllm_distribution.install_alias()
        if vllm_distribution.is_cpu_build():  # the settings of the recipes (recipes/common.sh)
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # otherwise every operator warns about threads
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        from verl.utils import hf_processor
        from vllm import EngineArgs, LLMEngine
        from vllm.lora.request import LoRARequest

        known = {field.name for field in dataclasses.fields(EngineArgs)}
        if unknown := sorted(settings.keys() - known):
            raise ValueError(f"--vllm {unknown[0]}: vLLM's engine has no such argument")
        self.processor = hf_processor(settings["model"])
        self.engine = LLMEngine.from_engine_args(EngineArgs(**settings))
        self.cut = 0  # rows with audio longer than the model can hear
        self.adapters = {}
        for number, (name, adapter) in adapters.items():
            self.adapters[number] = LoRARequest(name, number + 1, str(adapter.absolute()))
            try:  # load it now, not with the first answer
                self.engine.add_lora(self.adapters[number])
            except Exception as error:
                raise ValueError(f"{adapter}: vLLM cannot load this adapter ({error})") from error

    def outputs(self, data: Data, jobs: Iterable[Job], sampling: Sampling, **others) -> Iterator[tuple[Job, Any]]:
        """Yield each job when it is complete, with vLLM's RequestOutput or a text with the reason of a failure.

        ``others`` are further arguments of vLLM's SamplingParams.
        """
        prompts = self._prompts(data, jobs)
        waiting: dict[str, Job] = {}
        while True:
            while len(waiting) < IN_FLIGHT and (pair := next(prompts, None)):
                job, prompt = pair
                if (error := self._add(job, prompt, sampling, others)) is None:
                    waiting[_request_id(job)] = job
                else:
                    yield job, error
            if not waiting:
                return
            for output in self.engine.step():
                if output.finished:
                    yield waiting.pop(output.request_id), output

    def _prompts(self, data: Data, jobs: Iterable[Job]) -> Iterator[tuple[Job, Prompt | ValueError]]:
        """Yield every job with the prompt of its row."""
        by_row: dict[int, list[Job]] = {}
        for job in jobs:
            by_row.setdefault(job.row, []).append(job)
        for row, prompt in data.prompts(sorted(by_row), self.processor):
            self.cut += isinstance(prompt, Prompt) and prompt.cut
            for job in by_row[row]:
                yield job, prompt

    def _add(self, job: Job, prompt: Prompt | ValueError, sampling: Sampling, others: dict) -> str | None:
        """Give a request to the engine; return the reason if that fails, or None."""
        from vllm import SamplingParams
        from vllm.exceptions import VLLMValidationError
        from vllm.inputs import TokensPrompt

        if isinstance(prompt, ValueError):
            return str(prompt)
        parameters = SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            max_tokens=sampling.max_tokens,
            seed=sampling.seed_of(job.row, job.sample),
            **others,
        )
        try:
            request = cast(TokensPrompt, prompt.request)
            self.engine.add_request(_request_id(job), request, parameters, lora_request=self.adapters.get(job.system))
        except (ValueError, VLLMValidationError) as error:  # such as a prompt that is too long for the model
            return " ".join(str(error).split())
        return None

    def close(self) -> None:
        self.engine.engine_core.shutdown()


@contextmanager
def started(model: Path, systems: list[System], data: Data, overrides: dict[str, Any]) -> Iterator[Engine]:
    """Yield an engine, and close it after the block; raise ValueError if the engine cannot be started, or stops."""
    adapters = {n: (system.name, system.adapter) for n, system in enumerate(systems) if system.adapter is not None}
    settings = engine_settings(model, data, [adapter for _, adapter in adapters.values()], overrides)
    try:
        engine = Engine(settings, adapters)
        try:
            yield engine
        finally:
            engine.close()
    except (RuntimeError, NotImplementedError, AssertionError, KeyError, OSError) as error:
        # errors of lower libraries, such as those of a device without memory; their log has the details
        reason = " ".join(str(error).split())[:500] or repr(error)
        raise ValueError(f"vLLM stopped: {reason}. Its log is above") from error
    if engine.cut:
        Console(stderr=True).print(f"{engine.cut} rows have audio that is longer than the model can hear. It was cut")


@contextmanager
def sampling_engine(system: System, data: Data, overrides: dict[str, Any]) -> Iterator[Engine]:
    """Yield an engine of one system that returns the log-probabilities of the distribution that tokens are sampled from."""
    assert system.model is not None
    data.check_prompts(system.model)
    with started(system.model, [system], data, {"logprobs_mode": "processed_logprobs", **overrides}) as engine:
        yield engine


def _request_id(job: Job) -> str:
    return f"{job.system}-{job.row}-{job.sample}"


def _answer(data: Data, job: Job, output, sampling: Sampling) -> Answer:
    """Return the answer in vLLM's output, or an empty answer if the output is the reason of a failure."""
    text, finish, error = "", "failed", output
    if not isinstance(output, str):
        completion = output.outputs[0]
        text, finish, error = completion.text, completion.finish_reason, None
        if finish not in ("stop", "length"):
            finish, error = "failed", f"vLLM ended the answer: {finish}"
    seed = sampling.seed_of(job.row, job.sample)
    return data.rows[job.row].answer(job.sample, text, finish=finish, seed=seed, error=error)
