"""What sharing prompts saves: veRL's FSDP engine and transformers' encoder as they are beside ours, seconds and memory, in one
process.

    python -m tests.benchmarks.sharing [--cells 6:8:40 12:8:40 ...] [--alike]

A cell is seconds of audio, responses a prompt and tokens a response. The model is a random Qwen2-Audio (encoder of 3 layers of
256 with 1,500 positions, language model of 6 layers of 512) with LoRA, fp32; a step is veRL's ``old_log_prob`` with entropy,
``ref`` without the adapter, and the update with the KL loss, one prompt a micro-batch. ``--alike N``: how many tokens the
responses have in common (default 0).
"""

import argparse
import ctypes
import functools
import gc
import os
import tempfile
import threading
import time
from pathlib import Path

import psutil
import torch
from rich.console import Console
from rich.table import Table
from tensordict import TensorDict

CELLS = ("6:8:40", "12:8:40", "30:8:40", "12:8:120", "12:4:40", "12:1:40", "1:8:400")
PHASES = ("old_log_prob", "ref", "update")


def build_model(folder: Path) -> None:
    """A Qwen2-Audio folder with the tokenizer of the spoken task."""
    from transformers import Qwen2AudioConfig

    from examples.spoken_german import tiny_model

    processor = tiny_model.build_processor()
    config = tiny_model.build_model(processor).config.to_dict()
    config["audio_config"] |= {"d_model": 256, "encoder_layers": 3, "encoder_ffn_dim": 1024}
    config["text_config"] |= {
        **{"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6, "num_attention_heads": 8},
        **{"num_key_value_heads": 8, "layer_types": None},
    }
    torch.manual_seed(0)
    model = tiny_model.Qwen2AudioForConditionalGeneration(Qwen2AudioConfig(**config))
    model.config.architectures = ["Qwen2AudioForConditionalGeneration"]
    tiny_model.save_hub_layout(model, processor, folder)


def build_engine(folder: Path, share: bool):
    from verl.trainer.config import CheckpointConfig
    from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig

    from verl_leaf.models import whisper
    from verl_leaf.models.qwen2_audio import QWEN2_AUDIO
    from verl_leaf.sharing.engine import SharingEngine

    if not share:
        whisper.leave_out_padding = lambda tower: None  # the stock encoder computes 30 s of every clip
    torch.manual_seed(0)
    model = HFModelConfig(
        path=str(folder),
        lora_rank=16,
        target_modules=list(QWEN2_AUDIO.lora_targets),
        exclude_modules=QWEN2_AUDIO.frozen,
        use_remove_padding=False,
        enable_gradient_checkpointing=False,
        override_config={"attn_implementation": "sdpa", "share_prompts": share},
    )
    precision = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}
    config = FSDPEngineConfig(strategy="fsdp2", use_torch_compile=False, mixed_precision=precision)
    engine = SharingEngine(model, config, FSDPOptimizerConfig(lr=1e-4, total_training_steps=1000), CheckpointConfig())
    engine.initialize()
    return engine


def build_batch(processor, seconds: float, count: int, length: int, alike: int):
    """A prompt of so many seconds of noise, and responses of so many tokens."""
    from verl_leaf.models.family import FEATURES_KEY as KEY
    from verl_leaf.models.qwen2_audio import QWEN2_AUDIO

    generator = torch.Generator().manual_seed(0)
    clip = torch.randn(int(16000 * seconds), generator=generator).numpy()
    text = "<|audio_bos|><|AUDIO|><|audio_eos|>Translate the sentence into German.\n"
    prompt, features = QWEN2_AUDIO.encode(processor, text, [clip])
    responses = torch.randint(10, 500, (count, length), generator=generator)
    responses[:, :alike] = responses[0, :alike]
    rows = [torch.cat([torch.tensor(prompt), response]) for response in responses]

    def nested(tensors):
        return torch.nested.as_nested_tensor(tensors, layout=torch.jagged)

    key = torch.zeros(1, 16, dtype=torch.uint8)
    fields = {
        "input_ids": nested(rows),
        "position_ids": nested([torch.arange(len(row)) for row in rows]),
        "prompts": nested([torch.tensor(prompt)] * count),
        "responses": nested(list(responses)),
        "response_mask": nested([torch.ones(length)] * count),
        "loss_mask": nested([torch.ones(length)] * count),
        "advantages": nested([torch.randn(length, generator=generator) for _ in rows]),
    }
    batch = TensorDict(fields, batch_size=[count])
    from verl.utils import tensordict_utils as tu

    tu.assign_non_tensor_data(batch, "multi_modal_inputs", None)
    batch.set("multi_modal_inputs", tu.NonTensorStack(*[tu.NonTensorData({KEY: key}) for _ in rows]))
    tu.assign_non_tensor(
        batch,
        **{"use_remove_padding": False, "use_dynamic_bsz": False, "micro_batch_size_per_gpu": count},
        **{"temperature": 1.0, "global_batch_size": count, "compute_loss": True, "pad_token_id": 0},
    )
    return batch, features


def step(engine, batch, loss) -> dict[str, float]:
    """One step; seconds of its phases."""
    from verl.utils import tensordict_utils as tu

    seconds = {}

    def timed(phase, call):
        start = time.perf_counter()
        result = call()
        seconds[phase] = time.perf_counter() - start
        return result

    data = batch.clone()
    tu.assign_non_tensor(data, calculate_entropy=True)
    with engine.eval_mode():
        old = timed("old_log_prob", lambda: engine.infer_batch(data))["model_output"]["log_probs"]
    tu.assign_non_tensor(data, calculate_entropy=False)
    with engine.eval_mode(), engine.disable_adapter():
        ref = timed("ref", lambda: engine.infer_batch(data))["model_output"]["log_probs"]
    offsets = batch["input_ids"].offsets()
    for name, values in (("old_log_probs", old), ("ref_log_prob", ref)):
        parts = [
            values.values()[end - length - 1 : end - 1]
            for end, length in zip(offsets[1:], batch["responses"].offsets().diff(), strict=True)
        ]
        data[name] = torch.nested.as_nested_tensor(parts, layout=torch.jagged)
    with engine.train_mode():
        timed("update", lambda: engine.train_batch(data, loss))
    return seconds


class Peak:
    """The most memory that the process has while a block runs, in MiB above what it had before."""

    def __enter__(self):
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what is free goes back, so that it counts when it is needed again
        self.process, self.running, self.peak = psutil.Process(), True, 0
        self.before = self.process.memory_info().rss
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while self.running:
            self.peak = max(self.peak, self.process.memory_info().rss - self.before)
            time.sleep(0.002)

    def __exit__(self, *_):
        self.running = False
        self.thread.join()
        self.mebibytes = self.peak / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=CELLS)
    parser.add_argument("--alike", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29511",
        "RANK": "0",
        "WORLD_SIZE": "1",
        "LOCAL_RANK": "0",
    }
    import verl  # noqa: F401
    from verl.workers.config import ActorConfig
    from verl.workers.utils.losses import ppo_loss

    from verl_leaf.models.qwen2_audio import hf

    torch.distributed.init_process_group("gloo")
    loss = functools.partial(
        ppo_loss,
        ActorConfig(
            strategy="fsdp2",
            rollout_n=8,
            use_dynamic_bsz=True,
            use_kl_loss=True,
            kl_loss_coef=0.02,
            loss_agg_mode="seq-mean-token-mean",
        ),
    )
    console = Console()
    table = Table("s, K, tokens", *PHASES, "step", "MiB before", "MiB shared", title="times as fast as before")
    with tempfile.TemporaryDirectory() as folder:
        build_model(Path(folder))
        engines = {share: build_engine(Path(folder), share) for share in (True, False)}  # the stock one last
        processor = engines[True].model_config.get_processor()
        for cell in options.cells:
            seconds, count, length = (float(part) if part.count(".") else int(part) for part in cell.split(":"))
            batch, features = build_batch(processor, seconds, count, length, options.alike)
            hf.fetch = lambda keys, features=features: [features] * len(keys)
            best: dict[bool, dict[str, float]] = {}
            memory: dict[bool, float] = {}
            for repeat in range(options.repeats + 1):  # the first to warm up
                for share, engine in engines.items():
                    with Peak() as peak:
                        taken = step(engine, batch, loss)
                    memory[share] = peak.mebibytes
                    if repeat:
                        best[share] = {phase: min(taken[phase], best.get(share, taken)[phase]) for phase in PHASES}
            for taken in best.values():
                taken["step"] = sum(taken.values())
            table.add_row(
                f"{seconds}, {count}, {length}",
                *(f"{best[False][phase] / best[True][phase]:.1f}" for phase in (*PHASES, "step")),
                *(f"{memory[share]:.0f}" for share in (False, True)),
            )
            console.print(f"{cell}: {best[False]['step']:.2f} s before, {best[True]['step']:.2f} s shared")
    console.print(table)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
