"""One training run in one folder: start veRL's main_ppo, watch it, go on after an interruption.

The folder holds ``command.json``, ``train.log`` (everything veRL, Ray and vLLM print), ``tensorboard/``,
``metrics/`` (a JSON line a step, a file for each start), ``traces/`` (LEAF's trees) with the page ``tree.html``,
``checkpoints/`` (veRL's, each with the adapter in PEFT's format), ``validation/`` (every answer of every validation) and,
once training has ended, ``summary.json`` and ``adapter/``. A run of several epochs has such a folder for each.
"""

import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from verl_leaf.checks.model import check_speech_model
from verl_leaf.models import FAMILIES
from verl_leaf.runs.summary import summarise, summarise_epochs
from verl_leaf.show.tree_page.build import write_tree
from verl_leaf.speech.swap import write_swapped

MODEL_PATH = "actor_rollout_ref.model.path"
SWAPPED = "val_swapped.parquet"
STEP_LINE = re.compile(r"step:(\d+) - (.*)")
QUIET_SECONDS = 600  # longer silence than any step of a healthy run on one machine


def choose_folder(runs: Path, overrides: list[str]) -> Path:
    """The last unfinished run below ``runs`` that has the same overrides, or a new numbered folder."""
    for folder in sorted(runs.glob("[0-9][0-9][0-9]"), reverse=True):
        command = folder / "command.json"
        if (
            command.exists()
            and not (folder / "summary.json").exists()
            and json.loads(command.read_text())["overrides"] == overrides
        ):
            return folder
    numbers = [int(folder.name) for folder in runs.glob("[0-9][0-9][0-9]")]
    return runs / f"{max(numbers, default=0) + 1:03d}"


def earlier_baseline(folder: Path, overrides: list[str], validation: str) -> Path | None:
    """The answers before training of an earlier run beside this one, if its command, model and validation are the same.

    They are taken for the same where the model is a local folder and nothing in it or in the validation's is newer than
    the answers.
    """
    model = _value(overrides, MODEL_PATH)
    if not os.path.isdir(model):
        return None
    made_of = [*Path(model).rglob("*"), *Path(validation).parent.glob("*")]
    newest = max(file.stat().st_mtime for file in made_of)
    for answers in sorted(folder.parent.glob("[0-9][0-9][0-9]/validation/0.jsonl"), reverse=True):
        command = json.loads((answers.parents[1] / "command.json").read_text())
        if command == {"overrides": overrides, "validation": validation} and answers.stat().st_mtime > newest:
            return answers
    return None


def train(
    folder: Path,
    overrides: list[str],
    validation: str,
    *,
    family: str | None = None,
    epochs: int = 1,
    dry: bool = False,
) -> int:
    """Run ``python -m verl.trainer.main_ppo`` in a run's folder until it ends, then write and show the summary.

    Args:
        folder: the run; where it holds a checkpoint, training goes on from there.
        overrides: hydra overrides of veRL's configuration.
        validation: parquet file to validate on; a copy in which every row has another row's audio is validated too.
        family: ``model_type`` of a speech model, whose own overrides come before ``overrides``.
        epochs: runs after each other in ``epoch_1``, ``epoch_2``, ..., with the adapter of the one before but an
            optimiser, a schedule and an order of the rows of their own.
        dry: only print the commands.

    Returns:
        The exit status of veRL.

    Raises:
        ValueError: another process trains in the folder, or the model is not of the family.
    """
    console = Console()
    folder = folder.resolve()
    parts = _epochs(folder, [*(FAMILIES[family].verl_flags() if family else []), *overrides], epochs)
    if dry:
        for part, flags in parts:
            print(" \\\n  ".join(shlex.quote(word) for word in _command(part, flags, validation, before=True)))
        return 0
    if family:
        check_speech_model(_value(overrides, MODEL_PATH), family)
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    answers = earlier_baseline(folder, overrides, validation)
    (folder / "command.json").write_text(json.dumps({"overrides": overrides, "validation": validation}, indent=1))
    for part, flags in parts:
        if epochs == 1 or not (part / "summary.json").exists():
            status = _train(part, flags, validation, answers, lock, console)
            if status != 0:
                return status
        answers = max((part / "validation").glob("*.jsonl"), key=lambda file: int(file.stem), default=None)
    if epochs > 1:
        summarise_epochs(folder, [part for part, _ in parts], console)
    console.print(f"Its curves, beside other runs: verl-leaf curves {folder} ...", soft_wrap=True)
    console.print(
        f"A model of it, or its adapter alone: verl-leaf export {folder} --out FOLDER [--merged]", soft_wrap=True
    )
    if epochs == 1:
        steps = json.loads((folder / "summary.json").read_text())["steps"]
        console.print(
            f"Train it longer: the same command with RUN={folder} and trainer.total_training_steps={2 * steps}; "
            "your own data and GPU: see README.md",
            soft_wrap=True,
        )
    return 0


def _epochs(folder: Path, overrides: list[str], epochs: int) -> list[tuple[Path, list[str]]]:
    """Folder and overrides of each epoch."""
    if epochs == 1:
        return [(folder, overrides)]
    parts = []
    for number in range(1, epochs + 1):
        flags = [f"data.seed={number}", *overrides]
        if number > 1:
            flags.append(f"actor_rollout_ref.model.lora_adapter_path={folder / f'epoch_{number - 1}' / 'adapter'}")
        parts.append((folder / f"epoch_{number}", flags))
    return parts


def _command(folder: Path, overrides: list[str], validation: str, before: bool) -> list[str]:
    """veRL's command of a run; ``before``: validate before training."""
    metrics = folder / "metrics"
    environment = {
        "TENSORBOARD_DIR": folder / "tensorboard",
        # TensorBoard's writer keeps two minutes back, which a kill would lose; this one writes at once, to a new file.
        "VERL_FILE_LOGGER_PATH": metrics / f"{len(list(metrics.glob('*'))):03d}.jsonl",
    }
    return [
        sys.executable,
        "-m",
        "verl.trainer.main_ppo",
        f"data.val_files=[{os.path.abspath(validation)},{folder / SWAPPED}]",
        "trainer.project_name=verl_leaf",
        f"trainer.experiment_name={folder.name}",
        f"trainer.default_local_dir={folder / 'checkpoints'}",
        f"trainer.validation_data_dir={folder / 'validation'}",
        "trainer.checkpoint_callback_class=verl_leaf.checkpoints.adapter.SaveAdapter",
        f"trainer.val_before_train={before}",
        f"hydra.run.dir={folder / 'hydra'}",
        # The trainer may run on any node of a cluster, which does not inherit our environment.
        *(f"++ray_kwargs.ray_init.runtime_env.env_vars.{name}={value}" for name, value in environment.items()),
        *_trace_flags(folder, overrides),
        *overrides,  # last, so that they win
        f"trainer.logger=[{','.join(_loggers(overrides))}]",
    ]


def _train(folder: Path, overrides: list[str], validation: str, answers: Path | None, lock, console: Console) -> int:
    """One start of veRL in a folder, its summary and its page; the exit status.

    ``answers``: those of the same model to the same validation, which need not be asked for again.
    """
    resumed = (folder / "checkpoints" / "latest_checkpointed_iteration.txt").exists()
    for name in ("validation", "metrics"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_swapped(Path(validation), folder / SWAPPED)
    if answers is not None and not resumed:
        console.print(f"The same before training as in {answers.parents[1]}: its validation is taken over")
        shutil.copy(answers, folder / "validation" / "0.jsonl")
    command = _command(folder, overrides, validation, before=not resumed and answers is None)
    environment = {
        **os.environ,
        "HYDRA_FULL_ERROR": "1",
        "RAY_DEDUP_LOGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    console.print(f"{'Going on with' if resumed else 'Starting'} {folder} (log: {folder / 'train.log'})")
    with open(folder / "train.log", "ab") as log:
        start = log.tell()
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=[lock.fileno()],  # held as long as veRL lives, whatever becomes of this process
        )
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        try:
            status = _watch(process, folder / "train.log", start, console)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            console.print(f"Stopped. The same command goes on from the last checkpoint in {folder / 'checkpoints'}")
            raise
    if status != 0:
        console.print(f"[red]veRL ended with status {status}.[/red] The end of {folder / 'train.log'}:")
        console.print(_last_error(folder / "train.log", start), markup=False, highlight=False)
        return status
    summarise(folder, console)
    if any((folder / "traces").glob("*.jsonl")):
        write_tree(folder, folder / "tree.html", None, console)
        console.print(f"How often its boundaries fire: verl-leaf forks {folder}", soft_wrap=True)
    return 0


def _value(overrides: list[str], name: str) -> str:
    """What overrides set a setting to at last; empty if they do not."""
    values = [item.partition("=")[2] for item in overrides if item.partition("=")[0].lstrip("+") == name]
    return values[-1] if values else ""


def _trace_flags(folder: Path, overrides: list[str]) -> list[str]:
    """LEAF's traces go into the run, unless overrides place them, or ask for the trainer that has none."""
    if _value(overrides, "algorithm.adv_estimator") != "leaf" or _value(overrides, "algorithm.leaf.trace_dir"):
        return []
    if _value(overrides, "trainer.use_v1").lower() == "false":
        return []
    return [f"+algorithm.leaf.trace_dir={folder / 'traces'}"]


def _loggers(overrides: list[str]) -> list[str]:
    """The run's own loggers, which it is watched and summarised by, and those that overrides ask for."""
    asked = yaml.safe_load(_value(overrides, "trainer.logger") or "[]")
    return list(dict.fromkeys(["console", "tensorboard", "file", *([asked] if isinstance(asked, str) else asked)]))


def _lock(folder: Path):
    """A file in the folder that stays locked while it is open here or in a child."""
    lock = open(folder / "lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"{folder}: a run is at work here; wait for it, end it, or choose another folder") from None
    return lock


def _watch(process: subprocess.Popen, log: Path, start: int, console: Console) -> int:
    """Show what a run does, from its log, until it ends."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    warned, heard = False, time.monotonic()
    with open(log, errors="replace") as lines, Progress(*columns, console=console) as progress:
        lines.seek(start)
        task = progress.add_task("Starting", total=None, note="")
        while True:
            ended = process.poll() is not None
            for line in lines:
                warned, heard = False, time.monotonic()
                _show(line, progress, task, console)
            if ended:
                return process.returncode
            if not warned and time.monotonic() - heard > QUIET_SECONDS:
                warned = True
                console.print(
                    f"[yellow]No output for {QUIET_SECONDS // 60} minutes.[/yellow] veRL waits for ever, without a "
                    "word, where Ray has too few CPUs (ray_kwargs.ray_init.num_cpus) or after a worker failed: look at "
                    f"{log}"
                )
            time.sleep(0.5)


def _show(line: str, progress: Progress, task, console: Console) -> None:
    line = re.sub(r"\x1b\[[0-9;]*m", "", line).strip()
    total = re.search(r"Total training steps: (\d+)", line)
    if total:
        progress.update(task, total=int(total[1]))
    step = STEP_LINE.search(line)
    if step is None:
        text = re.sub(r"^\([^)]*pid=[^)]*\)\s*", "", line)
        if text and not progress.tasks[task].completed:
            progress.update(task, note=text[:60].replace("[", "\\["))
        return
    values = dict(item.split(":", 1) for item in step[2].split(" - ") if ":" in item)
    number = int(step[1])
    note = " ".join(
        f"{label} {_number(values[name]):.{digits}f}"
        for label, name, digits in (
            ("reward", "critic/score/mean", 3),
            ("s/step", "timing_s/step", 1),
        )
        if name in values
    )
    progress.update(task, description="Training", completed=number, note=note)
    scores = [f"{name.split('/')[1]} {_number(value):.3f}" for name, value in values.items() if _is_score(name)]
    if scores:
        console.print(f"step {number}: validation reward: " + ", ".join(sorted(scores)))
    elif not console.is_terminal:
        console.print(f"step {number}: {note}")


def _is_score(name: str) -> bool:
    return name.startswith("val-core/") and "/mean@" in name


def _number(text: str) -> float:
    return float(re.sub(r"^np\.\w+\((.*)\)$", r"\1", text.strip()))


def _last_error(log: Path, start: int) -> str:
    """The last traceback of a log, or its last lines."""
    with open(log, errors="replace") as file:
        file.seek(start)
        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line.rstrip()) for line in file]
    tracebacks = [number for number, line in enumerate(lines) if "Traceback (most recent call last)" in line]
    return "\n".join(lines[max(tracebacks[-1] if tracebacks else 0, len(lines) - 40) :])
