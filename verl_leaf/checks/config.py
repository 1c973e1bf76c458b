"""Checks of a run's configuration before Ray and the engines start."""

import functools
import glob
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any, cast

from omegaconf import ListConfig, OmegaConf

from verl_leaf.algorithm.estimators import ESTIMATORS, LeafOptions, no_estimator
from verl_leaf.algorithm.settings import check_settings
from verl_leaf.checks.machine import check_machine
from verl_leaf.checks.memory import check_memory
from verl_leaf.checks.model import check_speech_model
from verl_leaf.checks.versions import check_vllm
from verl_leaf.common.errors import errors_at
from verl_leaf.common.names import REWARD_PATHS
from verl_leaf.config import prompts_per_mini_batch
from verl_leaf.data.options import Keys, check_options
from verl_leaf.data.parquet import RowFile
from verl_leaf.data.rows import check_columns, data_source_name, reference_texts
from verl_leaf.models import FAMILIES, Family
from verl_leaf.training.estimator import read_options
from verl_leaf.training.sharing import SHARE_PROMPTS

REFERENCES_READ = 100  # per data source, to detect the script of the references


def check_run(config) -> None:
    """Check the whole configuration of a run; raise ValueError if LEAF or a speech model cannot work with it."""
    check_estimator(config)
    check_lora(config)
    check_separate(config)
    if is_speech_run(config):
        check_vllm()
        family = check_speech_model(config.actor_rollout_ref.model.path)
        if family is not None:
            check_family(family, config.actor_rollout_ref)
        check_agent_loop(config.actor_rollout_ref.rollout)
        check_options(config.data)
        for setting, file in _local_files(config.data):
            with errors_at(f"data.{setting}"):
                check_columns(file, RowFile(file).columns, Keys.of(config.data))
    else:
        check_patterns(config.data)
    if config.actor_rollout_ref.model.override_config.get(SHARE_PROMPTS, False):
        check_sharing(config)
    reward = config.reward.custom_reward_function
    if reward.path in REWARD_PATHS:
        from verl_leaf.rewards.check import check_reward, check_row

        kwargs = OmegaConf.to_container(reward.get("reward_kwargs") or OmegaConf.create(), resolve=True)
        options = cast(dict[str, Any], kwargs)
        with errors_at("reward.custom_reward_function"):
            check_reward(reward.name, options, {})
            references = _references(config.data, functools.partial(check_row, reward.name, options))
            check_reward(reward.name, options, references)
    check_machine(config.data.get("cache_dir"))
    check_memory(config)


def check_estimator(config) -> None:
    """Raise ValueError if the estimator is unknown, or if it is one of this package's and cannot work with its settings."""
    name = config.algorithm.adv_estimator
    if name not in ESTIMATORS:
        if name == "grpo":  # verl takes seconds to import
            return
        from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

        if name in ADV_ESTIMATOR_REGISTRY:
            return
        raise ValueError(
            f"algorithm.adv_estimator={name}: {no_estimator(name, {**ESTIMATORS, **ADV_ESTIMATOR_REGISTRY})}, or one that a "
            "module in VERL_USE_EXTERNAL_MODULES registers"
        )
    options = read_options(name, config.algorithm)
    check_settings("verl", config, name)
    if isinstance(options, LeafOptions) and options.trace_dir is not None and not config.trainer.use_v1:
        raise ValueError("algorithm.leaf.trace_dir needs the V1 trainer. Set trainer.use_v1=True, or remove trace_dir")
    n = config.actor_rollout_ref.rollout.n
    if n < 2:
        raise ValueError(
            f"actor_rollout_ref.rollout.n={n}: {name} compares the responses to one prompt and needs at least 2. "
            "Set it to 2 or more (the paper uses 8)"
        )


def check_lora(config) -> None:
    """Raise ValueError if parts of verl disagree on whether LoRA is trained, or if LoRA updates would not reach the rollouts."""
    model, trainer = config.actor_rollout_ref.model, config.trainer
    if config.actor_rollout_ref.actor.strategy in ("fsdp", "fsdp2") and model.lora_rank == 0:
        # The actor reads only lora_rank (workers/engine/fsdp/transformer_impl.py). Rollout and reference read these, too.
        for setting, value in (("lora_adapter_path", model.lora_adapter_path), ("lora.rank", model.lora.rank)):
            if value:
                raise ValueError(
                    f"actor_rollout_ref.model.{setting}={value} with actor_rollout_ref.model.lora_rank=0: the actor would "
                    f"train all weights. Set lora_rank to the adapter's rank, or remove {setting}"
                )
    has_lora = model.lora_rank > 0 or model.lora.rank > 0 or model.lora_adapter_path is not None
    if trainer.use_v1 and trainer.v1.trainer_mode == "separate_async" and has_lora and not model.lora.merge:
        raise ValueError(
            "trainer.v1.trainer_mode=separate_async never sends LoRA updates to the rollout engine (verl issue 7495), which "
            "would continue with the first weights. Set trainer_mode to sync or colocate_async, or set "
            "actor_rollout_ref.model.lora.merge=True; mode=separate_async sets it and all that it needs"
        )


def check_separate(config) -> None:
    """Raise ValueError if a setting of the mode with separate GPUs for generation is wrong; verl notices only after Ray started."""
    mode = config.trainer.v1
    if not config.trainer.use_v1 or mode.trainer_mode != "separate_async":
        return
    rollout, prompts = config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor.ppo_mini_batch_size
    batch = mode.separate_async.parameter_sync_step * prompts
    remedies = {}
    if config.data.train_batch_size != batch:
        remedies["data.train_batch_size"] = batch
    if rollout.nnodes < 1:
        remedies["actor_rollout_ref.rollout.nnodes"] = "the number of nodes that generate"
    if rollout.n_gpus_per_node < 1:
        remedies["actor_rollout_ref.rollout.n_gpus_per_node"] = "the number of GPUs of each of these nodes"
    if rollout.checkpoint_engine.backend == "naive":
        remedies["actor_rollout_ref.rollout.checkpoint_engine.backend"] = "nccl"
    if remedies:
        setting, remedy = next(iter(remedies.items()))
        raise ValueError(
            f"{setting}={OmegaConf.select(config, setting)} cannot be combined with trainer.v1.trainer_mode=separate_async. "
            f"Set it to {remedy}; mode=separate_async sets all of its settings"
        )


def check_family(family: Family, actor_rollout_ref) -> None:
    """Raise ValueError if a model would be trained with settings of another family, or with settings that no family supports."""
    model = actor_rollout_ref.model
    alike = [other.model_type for other in FAMILIES.values() if other.lora_exclude == model.exclude_modules]
    if alike and family.model_type not in alike:
        raise ValueError(
            f"actor_rollout_ref.model.path={model.path} belongs to the family {family.model_type}, but "
            f"actor_rollout_ref.model.exclude_modules={model.exclude_modules} is meant for {' and '.join(alike)}. Set "
            f"family={family.model_type}"
        )
    longest = family.max_position_embeddings
    if longest and "max_position_embeddings" not in model.override_config:
        raise ValueError(
            f"actor_rollout_ref.model.override_config: verl finds no max_position_embeddings in a {family.model_type} model. Set "
            f"family={family.model_type}, or +actor_rollout_ref.model.override_config.max_position_embeddings={longest}"
        )
    for role in ("actor", "ref"):
        size = actor_rollout_ref[role].get("ulysses_sequence_parallel_size", 1)
        if size > 1:
            raise ValueError(
                f"actor_rollout_ref.{role}.ulysses_sequence_parallel_size={size} would split a clip's placeholders over "
                "several ranks. Set it to 1"
            )


def check_agent_loop(rollout) -> None:
    """Raise ValueError if verl's own agent loops would make the rollouts of a speech model: they drop the audio that tools return."""
    name = rollout.agent.default_agent_loop
    if name in ("single_turn_agent", "tool_agent"):
        raise ValueError(
            f"actor_rollout_ref.rollout.agent.default_agent_loop={name}: set it to speech, which calls the tools of "
            "actor_rollout_ref.rollout.multi_turn, too"
        )


def is_speech_run(config) -> bool:
    """Return whether a run reads audio with SpeechDataset or a class derived from it.

    Raises:
        ValueError: ``data.custom_cls`` cannot be loaded.
    """
    path, name = config.data.custom_cls.path, config.data.custom_cls.name
    if path is None or name is None:
        return False
    if (path, name) == ("pkg://verl_leaf.speech.dataset", "SpeechDataset"):
        return True
    from verl.utils.import_utils import load_extern_object

    try:
        dataset_class = load_extern_object(path, name)
    except Exception as error:  # the user's module may raise anything
        raise ValueError(f"data.custom_cls: {name} of {path} cannot be loaded ({error!r})") from error
    ours = sys.modules.get("verl_leaf.speech.dataset")  # a derived class has imported it
    return ours is not None and isinstance(dataset_class, type) and issubclass(dataset_class, ours.SpeechDataset)


def check_patterns(data) -> None:
    """Raise ValueError if verl's own dataset would read other files than those that are set (``datasets.load_dataset``)."""
    for setting, file in _local_files(data):
        if glob.has_magic(file) and os.path.isfile(file):
            raise ValueError(
                f"data.{setting}: verl's own dataset reads the path {file} as a pattern, because it contains *, ?, [ or ]. "
                "Rename the file"
            )


def _local_files(data) -> Iterator[tuple[str, str]]:
    """Yield setting and path of every file of rows that is not in remote storage."""
    for setting in ("train_files", "val_files"):
        files = [data[setting]] if isinstance(data[setting], str) else data[setting]
        if not isinstance(files, list | ListConfig) or not files or not all(isinstance(file, str) for file in files):
            raise ValueError(f"data.{setting}={data[setting]}: give the path of a parquet file, or a list of paths")
        for file in files:
            if "://" not in file:
                yield setting, os.path.expanduser(file)


def _references(data, check_row: Callable[[str, list[str], Any], None]) -> dict[str, list[str]]:
    """Return the first references of each data source, from the local parquet files.

    ``check_row`` gets data source, references and ``extra_info`` of every row, and raises a ValueError if the reward cannot
    score the row.
    """
    references: dict[str, list[str]] = defaultdict(list)
    for _, path in _local_files(data):
        if not path.endswith(".parquet") or not os.path.isfile(path):
            continue
        file = RowFile(path)
        if not {"data_source", "reward_model"} <= set(file.columns):
            continue
        for number, row in file.rows(columns=["data_source", "reward_model", "extra_info"]):
            with errors_at(f"{path}, row {number}"):
                texts = reference_texts((row["reward_model"] or {}).get("ground_truth"))
                source = data_source_name(row["data_source"])
                check_row(source, texts, row.get("extra_info"))
            if len(references[source]) < REFERENCES_READ:
                references[source] += texts
    return dict(references)


def check_sharing(config) -> None:
    """Raise ValueError if the actor cannot share prompts (verl_leaf/training/sharing)."""
    settings, ranks = config.actor_rollout_ref, config.trainer.nnodes * config.trainer.n_gpus_per_node
    model, actor = settings.model, settings.actor
    attention = model.override_config.get("attn_implementation", "flash_attention_2")
    least = prompts_per_mini_batch(settings.rollout.n, config.trainer.n_gpus_per_node, config.trainer.nnodes)
    prompts = actor.ppo_mini_batch_size
    for setting, value, wrong, remedy in (
        ("actor.strategy", actor.strategy, actor.strategy not in ("fsdp", "fsdp2"), "fsdp2"),
        ("actor.shuffle", True, actor.shuffle, "False, so that mini-batches contain whole prompts"),
        (
            "actor.ppo_mini_batch_size",
            f"{prompts} (prompts with {settings.rollout.n} responses each, on {ranks} GPUs)",
            prompts % least,
            f"a multiple of {least}",
        ),
        ("model.override_config.attn_implementation", attention, attention not in ("sdpa", "eager"), "sdpa"),
        ("model.use_remove_padding", True, model.use_remove_padding, "False"),
        ("model.use_fused_kernels", True, model.use_fused_kernels, "False"),
        *(
            (f"{role}.ulysses_sequence_parallel_size", size, size > 1, "1")
            for role in ("actor", "ref")
            if (size := settings[role].get("ulysses_sequence_parallel_size", 1))
        ),
    ):
        if wrong:
            raise ValueError(
                f"actor_rollout_ref.model.override_config.{SHARE_PROMPTS}=True cannot be combined with "
                f"actor_rollout_ref.{setting}={value}. Set it to {remedy}, or set {SHARE_PROMPTS}=False"
            )
