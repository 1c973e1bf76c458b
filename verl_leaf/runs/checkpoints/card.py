"""The model card of what is exported: how it was trained, its scores, and code that loads it."""

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet
from huggingface_hub import ModelCard, ModelCardData, try_to_load_from_cache
from omegaconf import DictConfig, OmegaConf

from verl_leaf import __version__
from verl_leaf.models import FAMILIES, Family
from verl_leaf.runs.adapters import ADAPTER_CONFIG, HUB, STEP_OF_RUN, RunAdapter, max_lora_rank, newest, saved_steps
from verl_leaf.runs.folder import RunFolder

SETTINGS = (
    "data.train_batch_size",
    "data.max_prompt_length",
    "data.max_response_length",
    "actor_rollout_ref.model.lora_rank",
    "actor_rollout_ref.model.lora_alpha",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.temperature",
    "actor_rollout_ref.rollout.top_p",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.actor.clip_ratio",
    "actor_rollout_ref.actor.use_kl_loss",
    "actor_rollout_ref.actor.kl_loss_coef",
    "actor_rollout_ref.actor.optim.lr",
    "actor_rollout_ref.actor.optim.lr_scheduler_type",
    "reward.custom_reward_function.name",
)


def model_card(saved: RunAdapter, run: str, base: str, folder: Path) -> str:
    """Return the text of ``README.md`` for an exported folder, with the front matter that the hub reads.

    Args:
        saved: what is exported.
        run: the run as the user names it.
        base: folder or hub name of the model that was trained.
        folder: the exported files.
    """
    config = saved.run.read_config() or OmegaConf.create()
    method = OmegaConf.select(config, "algorithm.adv_estimator")
    adapter = folder / ADAPTER_CONFIG
    rank = json.loads(adapter.read_bytes()).get("r", 8) if adapter.exists() else None  # 8 is PEFT's default
    on_hub = not Path(base).exists() and HUB.fullmatch(base) is not None
    family = _family(saved.actor, base, on_hub)
    sources = _sources(config)
    data = ModelCardData(
        base_model=base if on_hub else None,
        library_name="peft" if rank else "transformers",
        pipeline_tag="audio-text-to-text" if family else "text-generation",
        tags=[
            "verl",
            "verl-leaf",
            "reinforcement-learning",
            *([method] if method else []),
            *(["lora"] if rank else []),
        ],
        datasets=[source for source in sources if HUB.fullmatch(source)] or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(Path(__file__).with_name("card.md.jinja")),
        title=f"{Path(base).name} trained with {method}" if method else Path(base).name,
        base=base,
        base_is_local=not on_hub,
        rank=rank,
        max_rank=max_lora_rank(rank) if rank else None,
        step=saved.step,
        method=method,
        version=__version__,
        verl_version=version("verl"),
        files=[Path(file).name for file in _files(config)],
        sources=sources,
        settings=_settings(config, method),
        scores=_scores(saved, run),
        model_class=family.architectures[-1] if family else "AutoModelForCausalLM",
        processor_class="AutoProcessor" if family else "AutoTokenizer",
    )
    return str(card)


def _settings(config: DictConfig, method: str | None) -> dict[str, Any]:
    """Return the settings that have a value, with the options of the estimator."""
    own = [f"algorithm.{method}.{name}" for name in OmegaConf.select(config, f"algorithm.{method}") or ()]
    names = [name for name in (*own, *SETTINGS) if ".trace_" not in name]
    if not OmegaConf.select(config, "actor_rollout_ref.model.lora_rank"):
        names = [name for name in names if ".lora_" not in name]
    return {name: value for name in names if (value := OmegaConf.select(config, name)) is not None}


def _family(actor: Path, base: str, on_hub: bool) -> Family | None:
    """Return the family of the model, as verl's checkpoint, the base model or its copy in the hub's cache names it."""
    cached = try_to_load_from_cache(base, "config.json") if on_hub else None
    for file in (actor / "huggingface/config.json", Path(base) / "config.json", cached):
        if isinstance(file, str | Path) and Path(file).is_file():
            return FAMILIES.get(json.loads(Path(file).read_bytes())["model_type"])
    return None


def _files(config: DictConfig) -> list[str]:
    files = OmegaConf.select(config, "data.train_files") or []
    return [files] if isinstance(files, str) else list(files)


def _sources(config: DictConfig) -> list[str]:
    """Return the data sources of the training files that are still there."""
    names: set[str] = set()
    for file in _files(config):
        if Path(file).is_file():
            column = pyarrow.parquet.read_table(file, columns=["data_source"])["data_source"]
            names |= {str(name) for name in column.unique().to_pylist()}
    return sorted(names)


def _scores(saved: RunAdapter, run: str) -> list[tuple[str, str, str]]:
    """Return the rows of the table of scores, if what is exported is the end of the run."""
    named = STEP_OF_RUN.fullmatch(run)
    folder = RunFolder(Path(named[1] if named and not Path(run).expanduser().exists() else run).expanduser())
    summary = folder.read_summary()
    if saved.step not in (summary.get("adapter_step"), summary.get("steps")) or saved != newest(saved_steps(folder)):
        return []
    rows = []
    for label, key in (
        ("before training", "before"),
        ("last validation", "after"),
        ("last validation, with other clips' audio", "swapped_audio"),
    ):
        if scores := summary.get("val", {}).get(key):
            bleu, reward = scores.get("bleu"), scores.get("reward")
            rows.append((label, "" if bleu is None else f"{bleu:.1f}", "" if reward is None else f"{reward:.3f}"))
    return rows
