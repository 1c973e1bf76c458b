"""What can be known to be wrong with a run before Ray and the engines start."""

import os
from collections import defaultdict
from collections.abc import Iterator

import pyarrow.parquet
from omegaconf import OmegaConf

from verl_leaf.checks.model import check_speech_model
from verl_leaf.checks.versions import check_vllm
from verl_leaf.estimator import LeafOptions
from verl_leaf.sharing import SHARE_PROMPTS

REFERENCES_READ = 100  # of each data source, to see in what script they are
GROUP_ESTIMATORS = ("leaf", "grpo_floored")


def check_run(config) -> None:
    """Check veRL's whole configuration.

    Raises:
        ValueError: LEAF or a speech model cannot work with it; the message names the setting and what to do.
    """
    if config.algorithm.adv_estimator in GROUP_ESTIMATORS:
        if config.algorithm.adv_estimator == "leaf":
            options = LeafOptions.parse(config.algorithm)
            if options.trace_dir is not None and not config.trainer.use_v1:
                raise ValueError(
                    "algorithm.leaf.trace_dir needs the V1 trainer (trainer.use_v1=True): remove one of them"
                )
        n = config.actor_rollout_ref.rollout.n
        if n < 2:
            raise ValueError(
                f"actor_rollout_ref.rollout.n={n}: {config.algorithm.adv_estimator} compares the responses to one "
                "prompt and needs at least 2 of them (the paper uses 8)"
            )
    if is_speech_run(config):
        check_vllm()
        check_speech_model(config.actor_rollout_ref.model.path)
        for setting, file in _local_files(config.data):
            if not os.path.isfile(file):
                raise ValueError(f"data.{setting}: {file} does not exist")
    if config.actor_rollout_ref.model.override_config.get(SHARE_PROMPTS, False):
        check_sharing(config.actor_rollout_ref)
    reward = config.reward.custom_reward_function
    if reward.path in ("pkg://verl_leaf.rewards", "pkg://verl_leaf/rewards"):
        from verl_leaf.rewards.check import check_reward

        options = OmegaConf.to_container(reward.get("reward_kwargs") or OmegaConf.create(), resolve=True)
        try:
            check_reward(reward.name, options, _references(config.data))
        except ValueError as error:
            raise ValueError(f"reward.custom_reward_function: {error}") from error


def is_speech_run(config) -> bool:
    """Whether a configuration of verl's reads audio by our dataset."""
    return config.data.custom_cls.name == "SpeechDataset"


def _local_files(data) -> Iterator[tuple[str, str]]:
    """Setting and path of every file of rows that is not in remote storage."""
    for setting in ("train_files", "val_files"):
        files = data[setting]
        for file in [files] if isinstance(files, str) else files:
            if "://" not in file:
                yield setting, os.path.expanduser(file)


def _references(data) -> dict[str, list[str]]:
    """References of the first rows of every data source in the parquet files that can be read here."""
    references = defaultdict(list)
    for _, file in _local_files(data):
        if not file.endswith(".parquet") or not os.path.isfile(file):
            continue
        table = pyarrow.parquet.ParquetFile(file)
        if not {"data_source", "reward_model"} <= set(table.schema_arrow.names):
            continue
        rows = table.read(columns=["data_source", "reward_model"])
        for row in rows.to_pylist():
            texts = references[row["data_source"]]
            if len(texts) < REFERENCES_READ:
                truth = (row["reward_model"] or {}).get("ground_truth") or []
                texts += [truth] if isinstance(truth, str) else [text for text in truth if isinstance(text, str)]
    return dict(references)


def check_sharing(actor_rollout_ref) -> None:
    """Stop where the actor cannot share prompts (verl_leaf/sharing).

    Raises:
        ValueError: the message names the setting.
    """
    model, actor = actor_rollout_ref.model, actor_rollout_ref.actor
    attention = model.override_config.get("attn_implementation", "flash_attention_2")
    for setting, value, wrong, remedy in (
        ("actor.strategy", actor.strategy, actor.strategy not in ("fsdp", "fsdp2"), "fsdp2"),
        ("model.override_config.attn_implementation", attention, attention not in ("sdpa", "eager"), "sdpa"),
        ("model.use_remove_padding", True, model.use_remove_padding, "False"),
        ("model.use_fused_kernels", True, model.use_fused_kernels, "False"),
        *(
            (f"{role}.ulysses_sequence_parallel_size", size, size > 1, "1")
            for role in ("actor", "ref")
            if (size := actor_rollout_ref[role].get("ulysses_sequence_parallel_size", 1))
        ),
    ):
        if wrong:
            raise ValueError(
                f"actor_rollout_ref.model.override_config.{SHARE_PROMPTS}=True does not go with "
                f"actor_rollout_ref.{setting}={value}: set it to {remedy}, or do not share"
            )
