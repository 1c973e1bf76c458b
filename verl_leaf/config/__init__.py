"""The package's configurations, which ``python -m verl.trainer.main_ppo --config-name NAME`` finds by name.

- ``leaf``: verl's own configuration with LEAF as its estimator, for any recipe;
- ``leaf_speech``: the published configuration (arXiv 2606.07610), with ``family=`` a family of speech models;
- ``leaf_speech_cpu``: the same for a small model on a machine without a GPU.

Each is a YAML file here that builds on verl's ``ppo_trainer``. ``machine=cpu`` makes any of them run without a GPU, and
``mode=separate_async`` generates on separate GPUs.
"""

import importlib.util
import math
import re
from importlib.resources import files
from pathlib import Path
from typing import cast

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf

MICRO_BATCH_TOKENS = 8192  # 2.6 GB of bf16 logits if the vocabulary has 156,000 tokens, and as much for the gradient


class LeafSearchPath(SearchPathPlugin):
    """A Hydra plugin that adds this folder to the search path, after verl's."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="verl-leaf", path=f"pkg://{__name__}")


def register() -> None:
    """Make the configurations and their resolvers known in this process; a second call changes nothing."""
    from verl_leaf.algorithm.estimators import ESTIMATORS

    sections = {
        name: {option.name: option.default for option in options.values()}
        for name, row in ESTIMATORS.items()
        if (options := row.options.by_name())
    }
    ConfigStore.instance().store("estimators", {"algorithm": sections}, package="_global_", provider="verl-leaf")
    Plugins.instance().register(LeafSearchPath)
    for name, resolver in (
        ("leaf.mini_batch", prompts_per_mini_batch),
        ("leaf.batch", least_multiple),
        ("leaf.micro_batch", micro_batch),
        ("leaf.shard", lambda gpus, nodes: gpus if nodes > 1 else -1),
        ("leaf.sum", lambda *numbers: sum(numbers)),
        ("leaf.product", lambda *numbers: math.prod(numbers)),
        ("leaf.most", lambda *numbers: max(numbers)),
        ("leaf.equal", lambda one, other: one == other),
    ):
        OmegaConf.register_new_resolver(name, resolver, replace=True)


def compose(config_name: str, overrides: list[str]) -> DictConfig:
    """Return ``ppo_trainer``, or a configuration of this package, as ``main_ppo`` would compose it.

    Raises:
        ValueError: Hydra cannot read or apply an override, or there is no such configuration.
    """
    import hydra
    from hydra.errors import HydraException, OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

    register()
    try:
        with hydra.initialize_config_dir(str(_verl_configs()), version_base=None):
            return hydra.compose(config_name, overrides)
    except OverrideParseException as error:
        raise ValueError(
            f"{error.override}: Hydra cannot read this override. If a value contains characters other than letters and digits, "
            "quote it: \"key='value'\""
        ) from error
    except (HydraException, OmegaConfBaseException) as error:
        cause = error.__cause__ or error
        if isinstance(cause, ConfigAttributeError | ConfigKeyError):
            raise ValueError(f"{cause.full_key}: {config_name} has no such setting") from error
        reason = " ".join(str(cause).split())
        raise ValueError(f"{config_name} cannot be composed with these overrides: {reason}") from error


def _verl_configs() -> Path:
    """Return the folder of verl's configurations without importing verl, which takes seconds."""
    spec = importlib.util.find_spec("verl")
    if spec is None or spec.origin is None:
        raise ValueError("verl is not installed. Run pip install 'verl-leaf[gpu]', or 'verl-leaf[cpu]' without a GPU")
    return Path(spec.origin).parent / "trainer" / "config"


def family_settings(model_type: str) -> DictConfig:
    """Return the settings of ``family=MODEL_TYPE``."""
    text = (files(__name__) / "family" / f"{model_type}.yaml").read_text(encoding="utf-8")
    return cast(DictConfig, OmegaConf.create(text))


def quoted(value: object) -> str:
    """Return a value quoted so that Hydra's command line reads the same text, whatever its characters."""
    # A backslash stands for itself, except before an interpolation or a quotation mark, which it would escape.
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", str(value))
    text = re.sub(r"(\\*)('|$)", lambda match: 2 * match[1] + (r"\'" if match[2] else ""), text)
    return f"'{text}'"


def prompts_per_mini_batch(responses: int, gpus: int, nodes: int) -> int:
    """Return the smallest number of whole prompts whose responses split evenly over all ranks."""
    ranks = gpus * nodes
    return ranks // math.gcd(ranks, responses)


def least_multiple(number: int, of: int) -> int:
    """Return the smallest multiple of ``of`` that is at least ``number``."""
    return -(-number // of) * of


def micro_batch(prompts: int, responses: int, gpus: int, nodes: int, prompt_tokens: int, response_tokens: int) -> int:
    """Return how many responses a rank computes at once: a divisor of its share of a mini-batch.

    It is the whole share if that fits into ``MICRO_BATCH_TOKENS`` tokens, with each prompt once and all responses at full
    length; otherwise the largest divisor that fits.

    Args:
        prompts: prompts per mini-batch.
        responses: responses per prompt.
        gpus, nodes: GPUs per node, and nodes.
        prompt_tokens, response_tokens: maximal lengths.
    """
    share = max(1, prompts * responses // (gpus * nodes))

    def fits(count: int) -> bool:
        return -(-count // responses) * prompt_tokens + count * response_tokens <= MICRO_BATCH_TOKENS

    return max(count for count in range(1, share + 1) if share % count == 0 and (count == 1 or fits(count)))
