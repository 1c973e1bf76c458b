"""What a user without a GPU would pick instead: ms-swift's GRPO beside the recipe, on the same tiny Qwen2-Audio.

    bash tests/adapters/run.sh ms_swift --collect-only -q     # makes .venv-ms_swift
    python -m tests.benchmarks.against_ms_swift [--ms-swift .venv-ms_swift] [--steps 5] [--repeats 1]

Both train LoRA of rank 16 on the same layers, with the same rows of the spoken task and sentence BLEU: in each step 4 prompts
x 8 rollouts of 24 tokens at most, then an update per prompt, without KL and without validation. The model has a short warm
start, since a random one answers with audio placeholders, over which transformers falls.
ms-swift generates with transformers, as it does without a GPU, in one batch of 32; the recipe through Ray and vLLM. They run
in turn, each with all cores. Seconds are medians of the steps after the first two; memory is the highest sum over all
processes of a run (PSS, so that shared pages count once).
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pyarrow.parquet
from rich.table import Table

from tests.helpers import PROJECT
from verl_leaf.common.console import Console
from verl_leaf.runs.metrics import read_scalars

PROMPTS, SAMPLES, TOKENS, WARM_UP = 4, 8, 24, 2
LAYERS = "q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj"


def peak_memory(process: subprocess.Popen) -> float:
    """MiB at the peak of a process with all below it, until it ends."""
    peak = 0
    while process.poll() is None:
        total = 0
        for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
            try:
                total += each.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                pass
        peak = max(peak, total)
        time.sleep(0.5)
    return peak / 2**20


def watched(command: list[str], log: Path, **environment: str) -> float:
    """Runs a command to its end; MiB at its peak."""
    cores = str(os.cpu_count())
    with open(log, "w") as file:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            env={**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": cores, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        peak = peak_memory(process)
    if process.returncode != 0:
        raise SystemExit(f"{command[0]} ended with status {process.returncode}:\n{log.read_text()[-3000:]}")
    return peak


def ms_swift(task: Path, folder: Path, environment: Path, steps: int) -> tuple[list[float], float]:
    """Seconds of each step, and MiB."""
    with open(folder / "train.jsonl", "w") as file:
        for row in pyarrow.parquet.read_table(task / "data/train.parquet").to_pylist():
            own = {
                "messages": row["prompt"],
                "audios": [str(task / "data" / path) for path in row["audios"]],
                "solution": row["reward_model"]["ground_truth"],
            }
            file.write(json.dumps(own) + "\n")
    command = [str(environment / "bin/swift"), "rlhf", "--rlhf_type", "grpo", "--model_type", "qwen2_audio"]
    command += ["--template", "qwen2_audio", "--model", str(task / "model"), "--dataset", str(folder / "train.jsonl")]
    command += ["--external_plugins", str(PROJECT / "tests/benchmarks/ms_swift_plugin.py")]
    command += ["--reward_funcs", "sentence_bleu", "--tuner_type", "lora", "--lora_rank", "16", "--lora_alpha", "32"]
    command += ["--target_regex", f".*language_model.*({LAYERS})", "--output_dir", str(folder / "out")]
    command += f"""--torch_dtype float32 --use_cpu true --beta 0 --split_dataset_ratio 0 --report_to none
        --num_generations {SAMPLES} --per_device_train_batch_size {SAMPLES} --steps_per_generation {PROMPTS}
        --gradient_accumulation_steps 1 --max_completion_length {TOKENS} --temperature 1.0 --top_p 1.0
        --max_steps {PROMPTS * (steps + 1)} --logging_steps 1 --learning_rate 2e-3 --save_strategy no""".split()
    peak = watched(
        command,
        folder / "log",
        PATH=f"{environment / 'bin'}:{os.environ['PATH']}",
        ROUNDS=str(folder / "rounds"),
        USE_HF="1",
    )
    began = [float(line) for line in (folder / "rounds").read_text().splitlines()]
    return [after - before for before, after in itertools.pairwise(began)], peak


def ours(task: Path, folder: Path, steps: int) -> tuple[list[float], float]:
    """Seconds of each step, and MiB."""
    command = ["bash", str(PROJECT / "recipes/qwen2audio_leaf.sh")]
    command += [f"trainer.total_training_steps={steps}", "trainer.val_before_train=False", "trainer.test_freq=-1"]
    command += ["trainer.save_freq=-1", "actor_rollout_ref.actor.use_kl_loss=False", "data.train_batch_size=4"]
    command += [f"data.max_response_length={TOKENS}", f"actor_rollout_ref.rollout.n={SAMPLES}"]
    environment = {
        "MODEL": str(task / "model"),
        "TRAIN": str(task / "data/train.parquet"),
        "VAL": str(task / "data/val.parquet"),
        "RUN": str(folder / "run"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    peak = watched(command, folder / "log", **environment)
    return list(read_scalars(folder / "run/metrics")["timing_s/step"].values()), peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ms-swift", type=Path, default=PROJECT / ".venv-ms_swift", help="an environment with it")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    if not (options.ms_swift / "bin/swift").exists():
        parser.error(f"--ms-swift {options.ms_swift}: no ms-swift there; bash tests/adapters/run.sh ms_swift makes one")
    table = Table("", "s per step", "rollouts per s", "MiB at the peak")
    with tempfile.TemporaryDirectory() as root:
        task = Path(root, "task")
        prepare = ["-m", "examples.spoken_german.prepare", "--out", str(task), "--clips", "64", "--steps", "40"]
        subprocess.run([sys.executable, *prepare], cwd=PROJECT, check=True)
        for repeat in range(options.repeats):
            for name in ("ms-swift", "verl-leaf"):
                folder = Path(root, f"{name}_{repeat}")
                folder.mkdir()
                if name == "ms-swift":
                    seconds, peak = ms_swift(task, folder, options.ms_swift.resolve(), options.steps)
                else:
                    seconds, peak = ours(task, folder, options.steps)
                step = statistics.median(seconds[WARM_UP:])
                table.add_row(name, f"{step:.2f}", f"{PROMPTS * SAMPLES / step:.1f}", f"{peak:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
