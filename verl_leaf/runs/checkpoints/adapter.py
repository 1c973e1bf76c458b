"""The trained LoRA adapter of a checkpoint, in PEFT's format."""

import json
import shutil
from pathlib import Path

from peft import LoraConfig
from safetensors.torch import save_file
from verl.trainer.ppo.checkpoint_callback import CheckpointCallback
from verl.utils.checkpoint.checkpoint_manager import find_latest_ckpt_path

from verl_leaf.common.files import whole_folder
from verl_leaf.runs.adapters import LORA_META, absolute_model, weight_files
from verl_leaf.runs.checkpoints.weights import ADAPTER_WEIGHTS, PEFT_PREFIX, family_of_model, trained_weights


class SaveAdapter(CheckpointCallback):
    """A ``trainer.checkpoint_callback_class`` that gives every checkpoint of a LoRA training a folder ``adapter``.

    verl records a checkpoint before it calls this class. If the run is killed between the two, the adapter is written when
    training resumes from the checkpoint.
    """

    def __init__(self, config):
        super().__init__(config)
        last = find_latest_ckpt_path(config.trainer.default_local_dir)
        if config.trainer.resume_mode != "disable" and last:
            self._complete(Path(last))

    def on_save(self, trainer, global_step: int, checkpoint_dir: str, async_save: bool = False, **kwargs) -> None:
        if self.config.actor_rollout_ref.model.lora_rank == 0:  # an earlier training may have used LoRA here
            (Path(checkpoint_dir) / "actor" / LORA_META).unlink(missing_ok=True)
        self._complete(Path(checkpoint_dir))

    def _complete(self, step: Path) -> None:
        """Write the adapter of a step, and remove exports of weights that were saved here before."""
        actor, adapter = step / "actor", step / "adapter"
        if not weight_files(actor):
            return
        shutil.rmtree(step / "model", ignore_errors=True)
        if (actor / LORA_META).exists():
            model = self.config.actor_rollout_ref.model
            targets, excluded = model.target_modules, model.exclude_modules
            export_adapter(actor, adapter, base_model=model.path, target_modules=targets, exclude_modules=excluded)
        else:
            shutil.rmtree(adapter, ignore_errors=True)


def export_adapter(
    checkpoint: Path, destination: Path, *, base_model: str, target_modules, exclude_modules: str | None = None
) -> None:
    """Write the adapter of an FSDP actor checkpoint for ``peft.PeftModel.from_pretrained``.

    Args:
        checkpoint: folder with ``model_world_size_*_rank_*.pt`` and ``lora_train_meta.json``.
        destination: folder to write, completely or not at all; an earlier one is replaced.
        base_model: path or hub name of the model that the adapter belongs to. A path is made absolute.
        target_modules, exclude_modules: as in verl's ``model``.

    Raises:
        FileNotFoundError: the folder contains no LoRA checkpoint.
        ValueError: the checkpoint is incomplete or cannot be read.
    """
    meta = json.loads((checkpoint / LORA_META).read_text())
    config = LoraConfig(
        r=meta["r"],
        lora_alpha=meta["lora_alpha"],
        task_type=meta["task_type"],
        base_model_name_or_path=absolute_model(base_model),
        target_modules=list(target_modules) if not isinstance(target_modules, str) else target_modules,
        exclude_modules=exclude_modules,
        inference_mode=True,
    )
    weights = trained_weights(checkpoint, family_of_model(base_model))
    with whole_folder(destination, replace=True) as scratch:
        save_file(
            {PEFT_PREFIX + name: value() for name, value in weights.items() if "lora_" in name},
            scratch / ADAPTER_WEIGHTS,
            metadata={"format": "pt"},
        )
        config.save_pretrained(str(scratch))
