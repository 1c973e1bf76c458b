"""The model card of an exported model or adapter: its training, its scores, and code that loads it."""

import functools
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow.parquet
from huggingface_hub import ModelCard, ModelCardData, try_to_load_from_cache
from omegaconf import OmegaConf

from verl_leaf import __version__
from verl_leaf.models import FAMILIES, Family
from verl_leaf.runs.adapters import ADAPTER_CONFIG, HUB, SavedStep, max_lora_rank, newest, run_of, saved_steps


def model_card(saved: SavedStep, run: str, base: str, folder: Path) -> str:
    """Return the text of ``README.md`` for an exported folder, with the hub's front matter."""
    config = saved.run.read_config() or OmegaConf.create()
    method = OmegaConf.select(config, "algorithm.adv_estimator")
    adapter = folder / ADAPTER_CONFIG
    rank = json.loads(adapter.read_bytes()).get("r", 8) if adapter.exists() else None  # 8 is PEFT's default
    on_hub = not Path(base).exists() and HUB.fullmatch(base) is not None
    family = _family(saved.actor, base, on_hub)
    files = OmegaConf.select(config, "data.train_files") or []
    files = [Path(file) for file in ([files] if isinstance(files, str) else files)]
    sources = _data_sources(files)
    data = ModelCardData(
        base_model=base if on_hub else None,
        library_name="peft" if rank else "transformers",
        pipeline_tag="audio-text-to-text" if family else "text-generation",
        tags=["verl", "verl-leaf", "reinforcement-learning", *filter(None, [method, rank and "lora"])],
        datasets=[source for source in sources if HUB.fullmatch(source)] or None,
    )
    card = ModelCard.from_template(
        data,
        template_path=str(Path(__file__).with_name("card.md.jinja")),
        base=base,
        base_is_local=not on_hub,
        rank=rank,
        max_rank=rank and max_lora_rank(rank),
        lora_modules=family and family.vllm_settings.get("lora_target_modules"),
        step=saved.step,
        method=method,
        version=__version__,
        verl_version=version("verl"),
        files=[file.name for file in files],
        sources=sources,
        options=OmegaConf.select(config, f"algorithm.{method}") or {},
        setting=functools.partial(OmegaConf.select, config),
        validations=_validations(saved, run),
        model_class=family.architectures[-1] if family else "AutoModelForCausalLM",
        processor_class="AutoProcessor" if family else "AutoTokenizer",
    )
    return str(card)


def _family(actor: Path, base: str, on_hub: bool) -> Family | None:
    """Return the model's family, read from the base model, its copy in the hub's cache, or verl's checkpoint.

    The checkpoint comes last, because for Qwen2.5-Omni it contains the configuration of the trained part only.
    """
    cached = try_to_load_from_cache(base, "config.json") if on_hub else None
    files = [file for file in (Path(base) / "config.json", cached, actor / "huggingface/config.json") if file]
    types = [json.loads(Path(file).read_bytes()).get("model_type") for file in files if Path(str(file)).is_file()]
    return next((FAMILIES[name] for name in types if name in FAMILIES), None)


def _data_sources(files: list[Path]) -> list[str]:
    """Return the data sources of the training files that still exist."""
    tables = [pyarrow.parquet.read_table(file, columns=["data_source"]) for file in files if file.is_file()]
    columns = [column for table in tables for column in table.columns]  # none if a file has no such column
    return sorted({str(name) for column in columns for name in column.unique().to_pylist()})


def _validations(saved: SavedStep, run: str) -> dict[str, Any]:
    """Return the scores in the run's summary if the exported step is the end of the run; otherwise nothing."""
    folder = run_of(run)
    summary = folder.read_summary()
    is_end = saved.step in (summary.get("adapter_step"), summary.get("steps")) and saved == newest(saved_steps(folder))
    return summary.get("val", {}) if is_end else {}
