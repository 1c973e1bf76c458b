"""What sharing prompts saves: verl's FSDP engine and transformers' encoder as they are beside ours, seconds and memory, in one
process.

    python -m tests.benchmarks.sharing [--cells 6:8:40 12:8:40 ...] [--alike]

A cell is seconds of audio, responses per prompt and tokens per response. The model is a random Qwen2-Audio (encoder of 3 layers of
256 with 1,500 positions, language model of 6 layers of 512) with LoRA, fp32; a step is verl's ``old_log_prob`` with entropy,
``ref`` without the adapter, and the update with the KL loss, one prompt per micro-batch. ``--alike N``: how many tokens the
responses have in common (default 0).
"""

import argparse
import ctypes
import gc
import os
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import torch
from rich.table import Table

from verl_leaf.common.console import Console

CELLS = ("6:8:40", "12:8:40", "30:8:40", "12:8:120", "12:4:40", "12:1:40", "1:8:400")
PHASES = ("old_log_prob", "ref", "update")


def build_model(folder: Path) -> None:
    """A Qwen2-Audio folder with the tokenizer of the spoken task."""
    from transformers import Qwen2AudioConfig

    from examples.spoken_german import tiny_model
    from verl_leaf.models.qwen2_audio import QWEN2_AUDIO
    from verl_leaf.models.tiny import save

    processor = tiny_model.build_processor()
    config = tiny_model.build_model(processor).config.to_dict()
    config["audio_config"] |= {"d_model": 256, "encoder_layers": 3, "encoder_ffn_dim": 1024}
    config["text_config"] |= {
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "layer_types": None,
    }
    torch.manual_seed(0)
    model = tiny_model.Qwen2AudioForConditionalGeneration(Qwen2AudioConfig(**config))
    model.config.architectures = ["Qwen2AudioForConditionalGeneration"]
    save(QWEN2_AUDIO, model, processor, folder)


def build_engines(folder: Path) -> dict:
    """Engine by whether it shares. The stock one comes last: its encoder takes 30 s of every clip."""
    from tests.helpers import engines
    from verl_leaf.models import whisper
    from verl_leaf.models.qwen2_audio import QWEN2_AUDIO

    ours = engines.build_engine(folder, QWEN2_AUDIO, share=True, precision=engines.FP32)
    whisper.shorten_window = lambda encoder: None
    return {True: ours, False: engines.build_engine(folder, QWEN2_AUDIO, share=False, precision=engines.FP32)}


def whole_window(processor, text, clips):
    """What a processor makes of clips when nobody asks for less."""
    return processor(text=[text], audio=clips, sampling_rate=16000, return_tensors="pt")


def build_batch(processor, store, share: bool, seconds: float, count: int, length: int, alike: int):
    """For an engine: a prompt of so many seconds of noise, and responses of so many tokens."""
    from tests.helpers import engines
    from verl_leaf.models.qwen2_audio import QWEN2_AUDIO

    generator = torch.Generator().manual_seed(0)
    clip = torch.randn(int(16000 * seconds), generator=generator).numpy()
    text = "<|audio_bos|><|AUDIO|><|audio_eos|>Translate the sentence into German.\n"
    family = QWEN2_AUDIO if share else replace(QWEN2_AUDIO, call_processor=whole_window)
    prompt, features = family.encode(processor, text, [clip])
    responses = torch.randint(10, 500, (count, length), generator=generator)
    responses[:, :alike] = responses[0, :alike]
    return engines.build_batch([engines.Row(prompt, response.tolist(), features) for response in responses], store)


def step(engine, batch) -> dict[str, float]:
    """One step; seconds of its phases."""
    from tests.helpers import engines

    seconds = {}

    def timed(phase, *arguments):
        start = time.perf_counter()
        result = getattr(engines, phase)(engine, *arguments)
        seconds[phase] = time.perf_counter() - start
        return result

    data = batch.clone()
    old = timed("old_log_prob", data)["log_probs"]
    timed("update", data, old, timed("ref", data))
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
    from tests.helpers import engines

    torch.distributed.init_process_group("gloo")
    store = engines.Features().install()
    console = Console()
    table = Table("s, K, tokens", *PHASES, "step", "MiB before", "MiB shared", title="times as fast as before")
    with tempfile.TemporaryDirectory() as folder:
        build_model(Path(folder))
        both = build_engines(Path(folder))
        processor = both[True].model_config.get_processor()
        for cell in options.cells:
            seconds, count, length = (float(part) if part.count(".") else int(part) for part in cell.split(":"))
            batches = {
                share: build_batch(processor, store, share, seconds, count, length, options.alike) for share in both
            }
            best: dict[bool, dict[str, float]] = {}
            memory: dict[bool, float] = {}
            for repeat in range(options.repeats + 1):  # the first to warm up
                for share, engine in both.items():
                    with Peak() as peak:
                        taken = step(engine, batches[share])
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
