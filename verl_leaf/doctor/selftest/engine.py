"""Test of vLLM together with the actor, on a tiny model of each family: weight transfer, probabilities, sleep."""

import asyncio
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel, get_peft_model_state_dict
from transformers import AutoProcessor

from verl_leaf.doctor.selftest import Finding, actors
from verl_leaf.models import Family
from verl_leaf.models.tiny import write_random

CLIPS = (0.6, 1.2, 4.0, 12.0)  # seconds
ROLLOUTS, TOKENS = 4, 24
CLOSE = 0.03  # largest mean difference of rollout and actor log-probabilities; on a CPU it is 0.006 to 0.012
TIMEOUT = 60.0  # seconds that an adapter may take to arrive


class Server:
    """vLLM's engine as verl starts it, serving the adapter of an actor."""

    def __init__(self, family: Family, folder: Path, device: str):
        self._job = os.environ["VERL_RAY_JOB_ID"]
        from vllm import LLM

        self._engine = LLM(
            str(folder),
            dtype="bfloat16",
            max_model_len=1024,
            **family.vllm_settings,
            max_num_seqs=ROLLOUTS * len(CLIPS),
            gpu_memory_utilization=0.2,
            enforce_eager=True,
            enable_lora=True,
            max_lora_rank=8,
            enable_sleep_mode=device != "cpu",
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
            worker_extension_cls="verl.workers.rollout.vllm_rollout.utils.vLLMColocateWorkerExtension",
        )

    def update(self, actor: PeftModel) -> None:
        """Send an actor's adapter to vLLM as verl does (vllm_rollout.py ServerAdapter.update_weights, 0.9.1).

        Raises:
            TimeoutError: the adapter has not arrived after a minute.
        """
        from verl.utils.device import is_support_ipc
        from verl.workers.rollout.vllm_rollout.bucketed_weight_transfer import BucketedWeightSender

        shared_memory = not is_support_ipc()
        socket = f"ipc:///tmp/rl-colocate-zmq-{self._job}-replica-0-rank-0.sock"
        sender = BucketedWeightSender(socket, bucket_size_mb=64, use_shm=shared_memory)
        weights = {name: weight.detach().contiguous() for name, weight in get_peft_model_state_dict(actor).items()}
        send = threading.Thread(
            target=lambda: asyncio.run(sender.async_send_weights(iter(weights.items()))), daemon=True
        )
        send.start()
        config = actor.peft_config["default"].to_dict()
        config |= {"target_modules": list(config["target_modules"]), "task_type": None, "peft_type": "LORA"}
        arguments = {"peft_config": config, "base_sync_done": True, "use_shm": shared_memory}
        self._engine.collective_rpc("update_weights_from_ipc", timeout=TIMEOUT, kwargs=arguments)
        send.join(TIMEOUT)
        self._engine.reset_prefix_cache()

    def generate(self, prompts: list[dict], greedy: bool = False) -> list:
        """Return ``ROLLOUTS`` answers to each prompt, with the log-probabilities of their tokens."""
        from verl.workers.rollout.vllm_rollout.utils import VLLM_LORA_INT_ID, VLLM_LORA_NAME, VLLM_LORA_PATH
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        sampling = SamplingParams(
            n=1 if greedy else ROLLOUTS,
            temperature=0.0 if greedy else 1.0,
            max_tokens=TOKENS,
            logprobs=0,
            ignore_eos=True,
            detokenize=False,
        )
        adapter = LoRARequest(VLLM_LORA_NAME, VLLM_LORA_INT_ID, VLLM_LORA_PATH)
        outputs = self._engine.generate(prompts, sampling, lora_request=adapter, use_tqdm=False)
        return [list(output.outputs) for output in outputs]

    def sleep_and_wake(self) -> tuple[float, float]:
        """Return the GiB that sleep frees on the GPU, and the seconds for sleeping and waking."""
        free, start = torch.cuda.mem_get_info()[0], time.perf_counter()
        self._engine.sleep(level=1)
        freed = torch.cuda.mem_get_info()[0] - free
        self._engine.wake_up()
        return freed / 2**30, time.perf_counter() - start

    def close(self) -> None:
        self._engine.llm_engine.engine_core.shutdown()


def engine(family: Family, device: str) -> Iterator[Finding]:
    """Test a family with vLLM, and yield the findings."""
    with tempfile.TemporaryDirectory() as folder, _socket_names():
        write_random(family, Path(folder))
        processor = AutoProcessor.from_pretrained(folder)
        base = family.load_hf_class().from_pretrained(
            folder, dtype=torch.float32, attn_implementation=family.attn_implementation
        )
        torch.manual_seed(0)
        actor = actors.as_actor(base, family, torch.bfloat16, device)
        prompts, encoded = _prompts(family, processor, device)
        start = time.perf_counter()
        server = Server(family, Path(folder), device)
        started = time.perf_counter() - start
        try:
            yield from _exchange(family.model_type, server, actor, prompts, encoded, started)
            if device != "cpu":  # vLLM cannot sleep on a CPU
                yield _sleep(family.model_type, server, prompts)
        finally:
            server.close()


@contextmanager
def _socket_names() -> Iterator[None]:
    """Set the variables from which verl's actor and vLLM name their socket (vllm_rollout/utils.py, 0.9.1)."""
    names = {"VERL_RAY_JOB_ID": f"selftest-{os.getpid()}", "VERL_REPLICA_RANK": "0"}
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ.update(names)
    try:
        yield
    finally:
        for name, value in before.items():
            del os.environ[name]
            if value is not None:
                os.environ[name] = value


def _exchange(
    name: str, server: Server, actor: PeftModel, prompts: list, encoded: list, started: float
) -> Iterator[Finding]:
    """Send two adapters one after the other; rollout and actor must agree after each."""
    times: list[float] = []
    differences: list[float] = []
    for seed in range(2):
        _new_adapter(actor, seed)
        before = _difference(actor, *_sampled(server, prompts, encoded)) if times else 0.0
        start = time.perf_counter()
        server.update(actor)
        times.append(time.perf_counter() - start)
        differences.append(_difference(actor, *_sampled(server, prompts, encoded)))
    agree = max(differences) < CLOSE
    yield Finding(
        f"rollout and actor {name}",
        f"log-probabilities differ by {differences[0]:.4f} and {differences[1]:.4f} on average; vLLM started in "
        f"{started:.0f} s",
        None
        if agree
        else "train with rollout correction, or report it, because vLLM's kernels and torch's disagree here",
    )
    arrived = before > 3 * differences[1]
    yield Finding(
        f"weights to vLLM {name}",
        f"{times[0]:.2f} s, {times[1]:.2f} s; before the second transfer the difference was {before:.4f}",
        None if arrived else "report it, because the actor's weights do not reach vLLM",
    )


def _sleep(name: str, server: Server, prompts: list) -> Finding:
    awake = [answers[0].token_ids for answers in server.generate(prompts, greedy=True)]
    freed, seconds = server.sleep_and_wake()
    same = awake == [answers[0].token_ids for answers in server.generate(prompts, greedy=True)]
    return Finding(
        f"sleep {name}",
        f"frees {freed:.1f} GiB, {seconds:.1f} s including waking",
        None
        if same
        else "set actor_rollout_ref.rollout.free_cache_engine=False, because vLLM's answers differ after sleep",
    )


def _prompts(family: Family, processor, device: str) -> tuple[list[dict], list]:
    """Return prompts for vLLM, and for each the actor's ids and features."""
    generator = np.random.default_rng(0)
    placeholder, rate = family.audio_token_id(processor), family.sampling_rate(processor)
    content = [{"type": "audio"}, {"type": "text", "text": "Translate into German."}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    prompts, encoded = [], []
    for length in CLIPS:
        clip = generator.normal(size=int(rate * length)).astype(np.float32) / 9
        ids, features = family.encode(processor, text, [clip])
        first = ids.index(placeholder)
        collapsed = ids[: first + 1] + [token for token in ids[first:] if token != placeholder]
        prompts.append({"prompt_token_ids": collapsed, "multi_modal_data": {"audio": [(clip, rate)]}})
        encoded.append((ids, {name: value.to(device) for name, value in features.items()}))
    return prompts, encoded


def _sampled(server: Server, prompts: list[dict], encoded: list) -> tuple[actors.Rollouts, torch.Tensor]:
    """Return rollouts for the actor, and vLLM's log-probabilities of all their tokens, float32 ``[tokens]``."""
    rollouts, log_probs = actors.Rollouts([], [], []), []
    for (ids, features), answers in zip(encoded, server.generate(prompts), strict=True):
        for answer in answers:
            rollouts.sequences.append(np.array([*ids, *answer.token_ids]))
            rollouts.prompt_lengths.append(len(ids))
            rollouts.audio.append(features)
            log_probs += [step[token].logprob for token, step in zip(answer.token_ids, answer.logprobs, strict=True)]
    return rollouts, torch.tensor(log_probs)


def _new_adapter(actor: PeftModel, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in actor.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.1)


def _difference(actor: PeftModel, rollouts: actors.Rollouts, theirs: torch.Tensor) -> float:
    with torch.no_grad():
        ours = actors.response_log_probs(actor, rollouts, share=True).float().cpu()
    return (ours - theirs).abs().mean().item()
