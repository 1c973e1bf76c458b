"""One training run in one folder: start verl's main_ppo, watch it, and resume it after an interruption."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from verl_leaf.checks.config import check_estimator, is_speech_run
from verl_leaf.checks.model import check_speech_model
from verl_leaf.common.console import Console
from verl_leaf.common.errors import errors_at
from verl_leaf.common.files import lock_folder
from verl_leaf.data.parquet import RowFile
from verl_leaf.runs.adapters import SavedStep, newest, saved_steps
from verl_leaf.runs.cluster import has_own_cluster, short_folders
from verl_leaf.runs.command import Part, Training, verl_command
from verl_leaf.runs.folder import RunFolder
from verl_leaf.runs.resume import check_changes, checkpoint_to_load, made_of, reusable_validation
from verl_leaf.runs.summary import summarise, summarise_epochs, trained
from verl_leaf.runs.traces import trace_files
from verl_leaf.runs.validation import planned_files, validation_files
from verl_leaf.runs.watch import Watch

TERMINATED = 128 + signal.SIGTERM  # exit status of a run that was told to stop
NOT_TRAINED = 3  # exit status of a run in which verl skipped too many updates


def train(
    training: Training,
    folder: RunFolder,
    console: Console,
    *,
    dry: bool = False,
    finished: Callable[[RunFolder], None] = lambda folder: None,
) -> int:
    """Run ``python -m verl.trainer.main_ppo`` in a folder until it ends, then write and print the summary.

    Args:
        training: options of the training. With several epochs, each is a separate run of verl in ``epoch_1``,
            ``epoch_2`` and so on, which starts with the previous adapter but a new optimiser and schedule. The run also
            validates on a control in which every row has another row's audio.
        folder: folder of the run; if it contains a checkpoint, training continues from there.
        finished: function that is called with the folder of each run of verl that has ended well.

    Returns:
        The exit status of verl, or ``NOT_TRAINED`` if verl skipped too many updates.

    Raises:
        ValueError: another process trains in the folder, or a setting, file or model cannot be used.
    """
    config = training.config
    folder = RunFolder(folder.path.resolve())
    parts = _parts(folder, training.epochs)
    if dry:
        for part in parts:
            files = planned_files(part.folder, training.validation, config)
            command = verl_command(training, part, validate_first=True, val_files=files)
            print(" \\\n  ".join(shlex.quote(word) for word in command))
        return 0
    with lock_folder(folder.path) as lock:
        to_do = [part for part in parts if training.epochs == 1 or not part.folder.finished]
        loaded = {part.folder: checkpoint_to_load(config, part.folder) for part in to_do}
        with console.status("Reading model and data"):
            now = made_of(training)
        check_changes(now, folder, [checkpoint for checkpoint in loaded.values() if checkpoint], console)
        folder.write_command(training.record())
        answers = reusable_validation(folder, now)
        for part in parts:
            if part in to_do:
                status = _Start(training, part, loaded[part.folder], answers, lock, console).run()
                if status != 0:
                    return status
                finished(part.folder)
            answers = _answers_of(newest(saved_steps(part.folder)))
        if training.epochs > 1:
            summarise_epochs(folder, console)
    _say_what_next(folder, training, console)
    return 0


def check(training: Training, *, dry: bool = False) -> None:
    """Check the options of a training before a folder is made for it; with ``dry``, without a look at files.

    Raises:
        ValueError: a setting, the model or the validation file cannot be used.
    """
    config = training.config
    check_estimator(config)
    if training.epochs > 1 and config.trainer.resume_mode == "resume_path":
        raise ValueError(
            f"trainer.resume_mode=resume_path: each of {training.epochs} warm restarts would start from this checkpoint. "
            "Start from an adapter with actor_rollout_ref.model.lora_adapter_path, or set EPOCHS to 1"
        )
    if training.epochs > 1 and config.actor_rollout_ref.model.lora_rank == 0:
        raise ValueError(
            f"EPOCHS={training.epochs} (--epochs): a warm restart starts from the previous epoch's adapter, but a run with "
            "actor_rollout_ref.model.lora_rank=0 has none. Set trainer.total_epochs instead, or train with LoRA"
        )
    if any(override.lstrip("+").startswith("trainer.default_local_dir=") for override in training.overrides):
        raise ValueError("trainer.default_local_dir: a run keeps its checkpoints in its own folder. Set RUN instead")
    if dry:
        return
    if is_speech_run(config):
        check_speech_model(config.actor_rollout_ref.model.path, training.family)
    with errors_at("--val"):
        RowFile(training.validation)


def _answers_of(adapter: SavedStep | None) -> Path | None:
    """Return the answers of the run's validation with an adapter, or None if there are none."""
    if adapter is None or adapter.step is None:
        return None
    answers = adapter.run.answers_of(adapter.step)
    return answers if answers.exists() else None


def _parts(folder: RunFolder, epochs: int) -> list[Part]:
    if epochs == 1:
        return [Part(folder, None)]
    return [
        Part(folder.epoch(number), folder.epoch(number - 1).adapter if number > 1 else None)
        for number in range(1, epochs + 1)
    ]


@dataclass(frozen=True)
class _Start:
    training: Training
    part: Part
    checkpoint: Path | None  # to continue from
    answers: Path | None  # of the same model to the same validation, from an earlier run
    lock: IO[str]
    console: Console

    def run(self) -> int:
        folder = self.part.folder
        for path in (folder.validation, folder.metrics):
            path.mkdir(parents=True, exist_ok=True)
        files = validation_files(folder, self.training.validation, self.training.config)
        if not folder.resumable:  # the weights behind these answers no longer exist
            for step in folder.validated_steps():
                folder.answers_of(step).unlink()
        continues = self.checkpoint is not None
        if folder.traces.is_dir() and not self.training.config.trainer.val_only:
            begin = int(self.checkpoint.name.rpartition("_")[2]) if self.checkpoint else 0
            for step, file in trace_files(folder.traces).items():
                if step > begin:  # this start may end before it
                    file.unlink()
        validate_first = not folder.resumable and (continues or not self._take_over_answers())
        command = verl_command(self.training, self.part, validate_first=validate_first, val_files=files)
        begins = f"Continuing from {self.checkpoint} in" if continues else "Starting"
        self.console.print(f"{begins} {folder.path} (log: {folder.log})")
        if cluster := os.environ.get("RAY_ADDRESS"):
            does = "Not joining" if has_own_cluster(self.training.config) else "Joining"
            self.console.print(f"{does} the Ray cluster at {cluster} (RAY_ADDRESS)")
        watch = Watch(folder, self.console)
        with short_folders() as temporary:
            status = self._watched(command, watch, temporary)
        if status != 0:
            self.console.print(f"verl ended with status {status}. The end of {folder.log}:", style="red")
            self.console.print(watch.last_error())
            return status
        summary = summarise(folder, self.console)
        return 0 if trained(summary) else NOT_TRAINED

    def _take_over_answers(self) -> bool:
        """Copy an earlier run's answers before training, if they are those that this run would get."""
        folder = self.part.folder
        if self.answers is None or self.training.config.trainer.val_only:
            return False
        earlier = RunFolder(self.answers.parents[1])
        self.console.print(f"Before training this run equals {earlier.path}, so its first validation is reused")
        shutil.copy(self.answers, folder.answers_of(0))
        return True

    def _watched(self, command: list[str], watch: Watch, temporary: dict[str, str]) -> int:
        """Run a command to its end, and return its exit status.

        On the first SIGTERM during training the run saves a checkpoint after its step and ends; on the second it ends
        at once. If this process ends in any other way, it ends the command, too.
        """
        settings = {"HYDRA_FULL_ERROR": "1", "RAY_DEDUP_LOGS": "0", "RAY_USAGE_STATS_ENABLED": "0"}
        with open(self.part.folder.log, "ab") as log:
            process = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **temporary, **settings},
                start_new_session=True,
                pass_fds=[self.lock.fileno()],  # verl keeps the lock, even if this process ends
            )
        stop = self.part.folder.stop
        stop.parent.mkdir(exist_ok=True)  # a run may be told to stop before its first checkpoint
        stop.unlink(missing_ok=True)

        def end(*_) -> None:
            if stop.exists() or not watch.has_stepped() or not self._saves:
                sys.exit(TERMINATED)
            stop.touch()
            self.console.print(
                "Told to stop. The run will save a checkpoint after this step and end. A second signal ends it now"
            )

        signal.signal(signal.SIGTERM, end)
        try:
            status = watch.until_it_ends(process)
            if stop.exists():
                sys.exit(TERMINATED)
            return status
        except BaseException:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
            stop.unlink(missing_ok=True)
            last = self.part.folder.last_checkpoint()
            what = "starts again" if last is None else f"continues after step {last}, the last checkpoint"
            self.console.print(f"Stopped. The same command {what}")
            raise

    @property
    def _saves(self) -> bool:
        """True if verl's trainer looks for the file that tells it to stop."""
        trainer = self.training.config.trainer
        return bool(trainer.use_v1) and trainer.save_freq > 0


def _say_what_next(folder: RunFolder, training: Training, console: Console) -> None:
    run = shlex.quote(str(folder.path))
    console.print(f"To plot its curves, also with other runs: verl-leaf curves {run} ...")
    if training.config.actor_rollout_ref.model.lora_rank > 0:
        console.print(
            f"To export its adapter, or with --merged the whole model: verl-leaf export {run} --out FOLDER [--merged]"
        )
    else:
        console.print(f"To export its model: verl-leaf export {run} --out FOLDER")
    if training.epochs == 1:
        console.print(
            f"To train it longer, run the same command with RUN={run} and a larger trainer.total_training_steps. README.md "
            "describes how to use your own data and a GPU"
        )
