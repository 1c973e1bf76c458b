"""A few steps of the Qwen2-Audio recipe at the 7B model's true shape, with random weights: seconds and memory.

python -m tests.benchmarks.true_shape --out FOLDER      (one 80 GB GPU; 17 GB of disk for the weights)
python -m tests.benchmarks.true_shape --out FOLDER --tiny      (a small shape, without a GPU)

No checkpoint and no hub are needed. A random model answers until it must stop, so every response has the full length:
the most that the published configuration can take. Below the figures stand the estimates of `verl-leaf doctor MODEL --gpus`.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import soundfile
import torch
from datasets import Dataset
from rich.table import Table
from transformers import Qwen2AudioProcessor, WhisperFeatureExtractor

from tests.helpers import PROJECT
from tests.helpers.true_shapes import build_config
from verl_leaf.common.console import Console
from verl_leaf.models import FAMILIES
from verl_leaf.models.tiny import byte_tokenizer, save, write_random
from verl_leaf.runs.folder import RunFolder
from verl_leaf.runs.metrics import read_scalars

ROWS, SECONDS, STEPS = 48, 12.0, 4
PHASES = ("gen", "old_log_prob", "ref", "adv", "update_actor", "update_weights")  # in verl's order


def write_true_shape(folder: Path) -> None:
    """Random weights in bf16 at the shape of Qwen/Qwen2-Audio-7B's config.json."""
    family = FAMILIES["qwen2_audio"]
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(family.tiny.TOKENS)})
    processor = Qwen2AudioProcessor(WhisperFeatureExtractor(feature_size=128), tokenizer)
    config = build_config(family, audio_token_index=family.audio_token_id(processor))
    config.text_config.bos_token_id, config.text_config.eos_token_id = None, processor.tokenizer.eos_token_id
    config.dtype = "bfloat16"
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model = family.load_hf_class()._from_config(config, dtype=torch.bfloat16)
    save(family, model, processor, folder)


def write_rows(folder: Path, rows: int, seconds: float) -> Path:
    """Noise to translate."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(rows):
        soundfile.write(folder / f"{number}.wav", generator.normal(size=int(16000 * seconds)) / 9, 16000)
    Dataset.from_dict(
        {
            "data_source": ["noise"] * rows,
            "prompt": [[{"role": "user", "content": "<audio>Translate into German."}]] * rows,
            "audios": [[f"{number}.wav"] for number in range(rows)],
            "reward_model": [{"style": "rule", "ground_truth": "Nichts als Rauschen."}] * rows,
        }
    ).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


def host_memory_in_use() -> float:
    """GiB that no process could get, pinned and shared memory included."""
    memory = psutil.virtual_memory()
    return (memory.total - memory.available) / 2**30


class Watch:
    """What is in use on the fullest GPU and on the host, and when each step ended, five times a second."""

    def __init__(self, metrics: Path) -> None:
        self.used: list[tuple[float, float]] = []  # when, GiB; nothing without a GPU
        self.host = 0.0  # GiB, more than before
        self.ends: dict[int, float] = {}
        self._before = host_memory_in_use()
        self._metrics = metrics
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_error) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        while not self._over.wait(0.2):
            now = time.monotonic()
            for step in read_scalars(self._metrics).get("timing_s/step", {}):
                self.ends.setdefault(step, now)
            self.host = max(self.host, host_memory_in_use() - self._before)
            if shutil.which("nvidia-smi"):
                found = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split()
                self.used.append((now, max([0.0, *(float(mib) / 1024 for mib in found if mib.isdigit())])))

    def peaks(self, seconds: dict[int, dict[str, float]]) -> dict[str, float]:
        """The most in use in each phase, GiB. Phases follow each other, and the last one ends with the step."""
        peaks: dict[str, float] = {}
        for step, end in self.ends.items():
            for phase in reversed(PHASES):
                begin = end - seconds.get(step, {}).get(phase, 0.0)
                within = [gib for when, gib in self.used if begin <= when <= end]
                peaks[phase] = max([peaks.get(phase, 0.0), *within])
                end = begin
        return peaks


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--out", type=Path, required=True)
    arguments.add_argument("--tiny", action="store_true")
    options = arguments.parse_args()
    model, run = options.out / "model", RunFolder(options.out / "run")
    if not (model / "config.json").exists():
        write_random(FAMILIES["qwen2_audio"], model) if options.tiny else write_true_shape(model)
    rows = write_rows(options.out / "data", ROWS, 1.0 if options.tiny else SECONDS)
    variables = {"MODEL": str(model), "TRAIN": str(rows), "VAL": str(rows), "RUN": str(run.path)}
    recipe = ["bash", "recipes/qwen2audio_leaf.sh", f"trainer.total_training_steps={STEPS}", "trainer.save_freq=-1"]
    recipe += ["trainer.test_freq=-1", "trainer.val_before_train=False", "data.val_max_samples=2"]
    with Watch(run.metrics) as watch:
        subprocess.run(recipe, cwd=PROJECT, env=os.environ | variables, check=True)

    scalars = read_scalars(run.metrics)
    later = [step for step in scalars["timing_s/step"] if step > 1]
    seconds = {step: {phase: scalars.get(f"timing_s/{phase}", {}).get(step, 0.0) for phase in PHASES} for step in later}
    peaks = watch.peaks(seconds)
    table = Table("phase", "seconds", "most GiB in use on a GPU", title=f"steps 2 to {STEPS}: median, peak")
    for phase in PHASES:
        median = statistics.median(each[phase] for each in seconds.values())
        table.add_row(phase, f"{median:.2f}", f"{peaks[phase]:.1f}" if watch.used else "no GPU")
    step = statistics.median(scalars["timing_s/step"][step] for step in later)
    Console().print(table, f"a step: {step:.2f} s; host memory: {watch.host:.1f} GiB at most")
    gpus = str(max(1, torch.cuda.device_count()))
    subprocess.run(["verl-leaf", "doctor", model, "--gpus", gpus], check=False)


if __name__ == "__main__":
    main()
