"""Checks of the settings that may change when a training continues from a checkpoint.

Together with the weights, verl (0.9.1) silently restores more from a checkpoint. Its engine loads the optimiser with all
numbers of its ``param_groups`` and the scheduler with its ``base_lrs`` (utils/checkpoint/fsdp_checkpoint_manager.py), from
one file per rank. The trainer loads the state of the data loader, ``data.pt``: the order of the rows, and how many were
used. A schedule's functions are in no checkpoint, so a new warm-up, minimum or length takes effect.
"""

import json
import re
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from verl_leaf.checks.model import model_digest
from verl_leaf.common.console import Console
from verl_leaf.common.files import file_digest
from verl_leaf.runs.command import Training
from verl_leaf.runs.folder import RunFolder, flat
from verl_leaf.runs.validation import validation_digest

Record = dict[str, Any]  # result of made_of
Fixed = dict[str, str]  # pattern of settings -> what they determine

MODEL = "actor_rollout_ref.model.path"
LOADED = "actor_rollout_ref.actor.checkpoint.load_contents"
RANKS = "trainer.nnodes * trainer.n_gpus_per_node"
OPTIMISER: Fixed = {
    r".*\.optim\.lr": "the learning rate",
    r".*\.optim\.(weight_decay|betas|optimizer|optimizer_impl|override_optimizer_config)": "the optimiser",
}
RESTORED: Fixed = {
    re.escape(RANKS): "the number of GPUs",
    r"actor_rollout_ref\.actor\.(strategy|fsdp_config\.fsdp_size)": "the sharding of the weights",
    r"data\.(train_files|train_max_samples|seed|shuffle|train_batch_size|gen_batch_size|dataloader_num_workers"
    r"|filter_overlong_prompts|long_audio)": "the order of the training rows",
    r"actor_rollout_ref\.model\.lora_adapter_path": "the weights to start from",
}
WEIGHTS: Fixed = {
    re.escape(MODEL): "the base model",
    r"actor_rollout_ref\.model\.(lora_rank|lora_alpha|target_modules|exclude_modules|lora\..*)": "LoRA",
}
RUN: Fixed = {
    "EPOCHS": "the parts of the run",
    r"algorithm\.adv_estimator": "METHOD",
    r"data\.val_(files|max_samples)": "the validation rows",
}
# Settings of where a run writes, what it shows, when it saves and validates, and how it uses a machine.
HARMLESS = re.compile(
    r"trainer\.((save|test)_freq|logger|log_val_generations|(project|experiment)_name|val_(before_train|only)"
    r"|.*_dir|resume_.*|max_.*_ckpt_to_keep|del_local_ckpt_after_load|esi_redundant_time|ray_wait_.*)"
    r"|data\.(cache_dir|val_batch_size)|algorithm\.leaf\.trace_.*|.*\.num_workers"
    r"|(ray_kwargs|transfer_queue|global_profiler)\..*|.*\.(profiler|prometheus)\..*"
)


def made_of(training: Training) -> Record:
    """Return everything that the weights and answers of a run depend on.

    Returns:
        ``settings`` by full name; ``derived``, the names of settings that are computed from others; and ``digests`` of the
            local files, models and adapters that settings name.

    Raises:
        ValueError: an interpolation of the configuration cannot be resolved, or the validation file cannot be read.
    """
    config = training.config
    try:
        settings = flat(OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        raise ValueError(" ".join(str(error).split())) from error
    derived = [name for name, value in flat(OmegaConf.to_container(config)).items() if "${" in str(value)]
    settings[RANKS] = settings.pop("trainer.nnodes") * settings.pop("trainer.n_gpus_per_node")
    settings["EPOCHS"] = 1 if training.epochs == 1 else "2 or more"
    settings["data.val_files"] = [str(training.validation)]
    named = {name: _digests(value) for name, value in settings.items() if re.search(r"[._](path|files)$", name)}
    digests = {name: of_setting for name, of_setting in named.items() if of_setting}
    digests["data.val_files"] = [validation_digest(training.validation, config)]
    record = {"settings": settings, "derived": derived, "digests": digests}
    return json.loads(json.dumps(record, default=str))  # in the form in which it will be read


def _digests(value: Any) -> list[str]:
    """Return the digests of the files or models that a setting names; none for any other setting."""
    names = value if isinstance(value, list) else [value]
    paths = [Path(name).expanduser() for name in names if isinstance(name, str)]
    if paths and all(path.is_file() for path in paths):
        return [file_digest(path) for path in paths]
    if paths and all((path / "config.json").exists() or (path / "adapter_config.json").exists() for path in paths):
        return [model_digest(path) for path in paths]
    return []


def changes(before: Record, now: Record) -> dict[str, str]:
    """Return the settings that differ, each with ``new value (before: old value)``.

    A file that moved is not a change; a file with other content is one.
    """
    changed = {}
    for name in sorted(before["settings"].keys() | now["settings"].keys()):
        old, new = (record["settings"].get(name) for record in (before, now))
        contents = [record["digests"].get(name) for record in (before, now)]
        if all(contents):
            if contents[0] != contents[1]:
                changed[name] = f"{new} (before: {'the same path with other content' if old == new else old})"
        elif old != new:
            changed[name] = f"{new} (before: {old})"
    return changed


def checkpoint_to_load(config: DictConfig, folder: RunFolder) -> Path | None:
    """Return the checkpoint in a run's folder that verl would continue from, or None if it would start anew.

    Raises:
        ValueError: verl does not know the mode, there is no such checkpoint, or the folder contains a later one, so
            that two trainings would be mixed.
    """
    mode, last = config.trainer.resume_mode, folder.last_checkpoint()
    newest = None if last is None else folder.checkpoints / f"global_step_{last}"
    if mode == "auto":
        return newest
    asked = None
    if mode == "resume_path":
        asked = Path(str(config.trainer.resume_from_path)).absolute()
        if not re.fullmatch(r"global_step_\d+", asked.name) or not asked.is_dir():
            raise ValueError(
                f"trainer.resume_from_path={config.trainer.resume_from_path}: there is no such checkpoint. Give the path of "
                "a folder global_step_N"
            )
    elif mode != "disable":
        raise ValueError(
            f"trainer.resume_mode={mode}: this mode does not exist. Set it to auto, disable or resume_path"
        )
    if newest is not None and (asked is None or asked.resolve() != newest.resolve()):
        raise ValueError(
            f"trainer.resume_mode={mode}: {folder.path} contains a checkpoint of step {last}, and its training would be "
            "mixed with the new one. Remove the setting trainer.resume_mode to continue from there, set RUN to another "
            "folder, or delete this one"
        )
    return asked


def check_changes(now: Record, folder: RunFolder, loaded: list[Path], console: Console) -> None:
    """Compare the settings and files of a run with those of its earlier steps, print the differences, and record them.

    Args:
        now: record of this start.
        folder: folder of the run, with all its epochs.
        loaded: checkpoints that verl will load.

    Raises:
        ValueError: a setting has changed that a checkpoint restores, or that must stay the same in the whole run.
    """
    begun = any(part.has_trained for part in (folder, *folder.epochs()))
    continues = bool(loaded) or any(part.finished for part in folder.epochs())
    history = folder.read_made_of() if begun else []
    known = [history, *(RunFolder(path).read_made_of() for checkpoint in loaded for path in checkpoint.parents[1:3])]
    before = next((records[-1] for records in known if records), None)
    if before is not None:
        changed = changes(before, now)
        if begun:
            _refuse(changed, WEIGHTS | RUN, f"the training in {folder.path}")
        if loaded:
            fixed = WEIGHTS | RESTORED
            if {"optimizer", "extra"} & set(now["settings"][LOADED]):
                fixed |= OPTIMISER
            if now["settings"]["data.filter_overlong_prompts"]:
                fixed |= {r"data\.max_prompt_length": "which training rows are left out"}
            _refuse(changed, fixed, f"the checkpoint {loaded[0]}")
        derived = set(before["derived"]).intersection(now["derived"])
        effective = [
            f"{name}={how}" for name, how in changed.items() if name not in derived and not HARMLESS.fullmatch(name)
        ]
        if effective:
            begins = "The training continues" if continues else "The training starts again"
            console.print(f"{begins} with {', '.join(effective)}")
    elif begun or loaded:
        console.print("The settings of the earlier steps are unknown, because there is no made_of.json")
    if not continues:
        history = []
    folder.write_made_of(history if history and history[-1] == now else [*history, now])


def _refuse(changed: dict[str, str], fixed: Fixed, by: str) -> None:
    refused = {name: meaning for name in changed for pattern, meaning in fixed.items() if re.fullmatch(pattern, name)}
    if not refused:
        return
    what = "; ".join(f"{name}={changed[name]} changes {meaning}" for name, meaning in refused.items())
    remedy = "Set it back, or set RUN to another folder"
    if set(refused.values()) <= set(OPTIMISER.values()):
        remedy = f"Set it back, set RUN to another folder, or load only the weights: {LOADED}=[model]"
    raise ValueError(f"{what}, which is fixed by {by}. {remedy}")


def reusable_validation(folder: RunFolder, now: Record) -> Path | None:
    """Return the answers before training of an earlier run of the same settings and files beside this one, or None.

    The model must be local, because the content behind a hub name may change.
    """
    if MODEL not in now["digests"]:
        return None
    for earlier in reversed([run for run in folder.beside() if run != folder]):
        answers, history = earlier.answers_of(0), earlier.read_made_of()
        if answers.exists() and history and all(HARMLESS.fullmatch(name) for name in changes(history[0], now)):
            return answers
    return None
