"""Evaluation through vLLM: kill it anywhere and resume; a model beside its adapters; forks; picking a checkpoint."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.helpers import PROJECT
from tests.helpers.recipe import kill, wait_for
from verl_leaf.common.answers import Answer
from verl_leaf.data.parquet import RowFile
from verl_leaf.runs.swap import write_rows
from verl_leaf.runs.traces import read_trace

pytestmark = pytest.mark.e2e

ROWS, PASSES = 24, 2
LOST, LONG = 5, 7  # a row whose clip is lost, and one whose prompt is longer than the model takes
SHORT = ["--passes", PASSES, "--max-tokens", 12, "--metrics", "chrf", "wer"]


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "verl_leaf.cli", *map(str, arguments)]


def run(*arguments, status: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "COLUMNS": "200"}
    done = subprocess.run(command(*arguments), env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def write_adapter(folder: Path, model: Path, seed: int) -> Path:
    """A LoRA adapter that changes every answer."""
    generator, tensors = torch.Generator().manual_seed(seed), {}
    with safe_open(model / "model.safetensors", "pt") as weights:
        for name in weights.keys():
            if "language_model" in name and name.endswith(("q_proj.weight", "v_proj.weight")):
                out, into = weights.get_slice(name).get_shape()
                module = f"base_model.model.{name.removesuffix('.weight')}"
                tensors[f"{module}.lora_A.weight"] = torch.randn(4, into, generator=generator)
                tensors[f"{module}.lora_B.weight"] = torch.randn(out, 4, generator=generator)
    assert tensors
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(model)}))
    return folder


@pytest.fixture(scope="module")
def spoken(task, tmp_path_factory) -> Path:
    """A folder with rows, two of which get no answer, and a run that has kept two adapters."""
    folder = tmp_path_factory.mktemp("spoken")
    rows = [row for _, row in RowFile(task / "data/train.parquet").rows(range(ROWS))]
    for number, row in enumerate(rows):
        row["audios"] = [str(task / "data" / audio) if number != LOST else "lost.wav" for audio in row["audios"]]
    rows[LONG]["prompt"][0]["content"] += " of" * 10_000
    write_rows(rows, folder / "val.parquet")
    for step in (1, 2):
        write_adapter(folder / f"run/checkpoints/global_step_{step}/adapter", task / "model", step)
    return folder


def read(file: Path) -> dict[tuple[int, int], Answer]:
    answers = [Answer.from_dict(json.loads(line)) for line in file.read_text().strip().split("\n")]
    kept = [(answer.row, answer.sample) for answer in answers if answer.finish != "failed"]
    assert len(set(kept)) == len(kept)
    return {(answer.row, answer.sample): answer for answer in answers}


def agreement(one: dict, other: dict) -> float:
    return sum(one[key].text == other[key].text for key in one) / len(one)


def test_kill_it_and_go_on(task, spoken, tmp_path):
    out, model = tmp_path / "out", task / "model"
    arguments = ["evaluate", f"base={model}", f"adapted={spoken}/run@1", "--data", spoken / "val.parquet", *SHORT]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    process = subprocess.Popen(command(*arguments, "--out", out), env=environment, start_new_session=True)
    files = [out / "answers/base.jsonl", out / "answers/adapted.jsonl"]
    try:
        wait_for(lambda: sum(file.read_bytes().count(b"\n") for file in files if file.exists()) >= 10, process)
    finally:
        kill(process)
    before = [file.read_text() for file in files]
    assert sum(text.count("\n") for text in before) < 2 * ROWS * PASSES, "it was killed too late to show anything"
    files[0].write_text(before[0] + '{"row": 3, "sam')  # as if killed in the middle of a line
    printed = run(*arguments, "--out", out)
    for file, text in zip(files, before, strict=True):
        assert file.read_text().startswith(text), "what was answered is kept"
    base, adapted = map(read, files)
    assert len(base) == len(adapted) == ROWS * PASSES
    assert {answer.finish for key, answer in base.items() if key[0] not in (LOST, LONG)} <= {"stop", "length"}
    assert base[LOST, 0].text == "" and "lost.wav" in base[LOST, 0].error
    assert base[LONG, 0].text == "" and "4096" in base[LONG, 0].error
    assert (
        f"base: 4 of {ROWS * PASSES} answers failed and are scored as empty. The first error, in row {LOST}" in printed
    )
    assert {base[key].seed for key in base} == {adapted[key].seed for key in base}
    assert "Differences to base" in printed and json.loads((out / "summary.json").read_text())["differences"]

    # The clip is found: its rows alone are answered.
    (spoken / "lost.wav").write_bytes(next((task / "data").glob("**/*.wav")).read_bytes())
    try:
        run(*arguments, "--out", out)
    finally:
        (spoken / "lost.wav").unlink()
    again = read(files[0])
    assert {key for key in base if again[key] != base[key]} == {(LOST, sample) for sample in range(PASSES)}
    assert again[LOST, 0].text

    # Alone, and in one go, the model gives the same answers: neither the adapter nor the kill have changed them.
    copy = shutil.copytree(model, tmp_path / "copy")  # another model, which gets an engine of its own
    run(
        "evaluate",
        f"base={model}",
        f"copy={copy}",
        "--data",
        spoken / "val.parquet",
        *SHORT,
        "--out",
        tmp_path / "alone",
    )
    for name in ("base", "copy"):
        assert agreement(base, read(tmp_path / f"alone/answers/{name}.jsonl")) > 0.95
    assert agreement(base, adapted) < 0.5

    other = ["evaluate", f"base={model}", "--data", spoken / "val.parquet", *SHORT, "--max-tokens", 9]
    assert "made with another sampling" in run(*other, "--out", tmp_path / "alone", status=2)


@pytest.mark.quick
def test_the_best_checkpoint_is_picked(spoken, tmp_path):
    pick = ["--checkpoints", spoken / "run", "--on", spoken / "val.parquet", "--select", "chrf", "--greedy"]
    printed = run("evaluate", *pick, "--max-tokens", 12, "--out", tmp_path)
    summary = json.loads((tmp_path / "selection/summary.json").read_text())
    means = {line["system"]: line["mean"] for line in summary["scores"]}
    assert set(means) == {"run@1", "run@2"} and f"Selected: {max(means, key=means.__getitem__)} (chrf " in printed


def test_forks_of_a_checkpoint(spoken, tmp_path):
    arguments = ["forks", "--model", f"{spoken}/run@1", "--data", spoken / "val.parquet", "--rollouts", 4]
    printed = run(*arguments, "--max-tokens", 12, "--out", tmp_path / "forks")
    assert f"2 of {ROWS} rows are left out. Row {LOST}" in printed and "Boundaries and nodes" in printed
    trace = read_trace(0, tmp_path / "forks_traces/step_000000.jsonl", skipped := [])
    assert not skipped and len(trace.prompts) == ROWS - 2
    for prompt in trace.prompts.values():
        assert len(prompt.responses) == 4 and max(len(response.tokens) for response in prompt.responses) <= 12
        assert all(nats is not None and nats >= 0 for response in prompt.responses for nats in response.surprisal)
        assert Path(prompt.audio[0]).exists() and prompt.prompt
    assert {file.suffix for file in tmp_path.glob("forks.*")} == {".png", ".svg", ".csv"}
