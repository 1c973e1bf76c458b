"""Options of rewards: weights of metrics, and values by data source."""

from collections.abc import Mapping

from verl_leaf.common.names import SWAPPED_AUDIO_SUFFIX
from verl_leaf.rewards.choice import CHOICE_METRICS
from verl_leaf.rewards.metrics import METRICS

NAMES = (*METRICS, *CHOICE_METRICS)


def weights_of(reward: str | Mapping) -> Mapping[str, float]:
    """Return the weights of a mix, or of the single metric that ``reward`` names.

    Raises:
        ValueError: ``reward`` is neither, a metric is unknown, or the weights are not positive numbers that sum to 1.
    """
    weights = {reward: 1} if isinstance(reward, str) else reward
    if not isinstance(weights, Mapping):
        raise ValueError(f"{reward} is neither a metric nor the weights of several")
    if unknown := [str(metric) for metric in weights if metric not in NAMES]:
        raise ValueError(f"there is no metric {', '.join(unknown)}. Choose from {', '.join(NAMES)}")
    numbers = [weight for weight in weights.values() if isinstance(weight, int | float) and weight > 0]
    if len(numbers) < len(weights) or abs(sum(numbers) - 1) > 1e-6:
        raise ValueError(f"weights must be numbers above 0 and sum to 1, got {dict(weights)}")
    return weights


def chosen(option: str, by_source: Mapping, data_source: str | int):
    """Return an option's value for a data source. Keys are compared as text, because Hydra reads ``{7: chrf}`` as a number."""
    base = str(data_source).removesuffix(SWAPPED_AUDIO_SUFFIX)
    entries = {str(name): value for name, value in by_source.items()}
    if base not in entries:
        raise ValueError(f"{option} has no entry for the data source {base!r}. It has entries for {', '.join(entries)}")
    return entries[base]


def format_weights(weight: float = 0.5, thinking: bool = False) -> Mapping[str, float]:
    """Return the weights of ``choice_format``.

    Raises:
        ValueError: the weight of the format is not above 0 and below 1, or ``thinking`` is not true or false.
    """
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < 1:
        raise ValueError(f"weight={weight}: set it to a number above 0 and below 1")
    if not isinstance(thinking, bool):
        raise ValueError(f"thinking={thinking}: set it to true or false")
    return {"choice": 1 - weight, "think_format" if thinking else "answer_format": weight}


def metrics_of(name: str, options: Mapping, data_source: str) -> set[str]:
    """Return the metrics that a reward uses for a data source."""
    if name == "choice_format":
        return {"choice"}
    if "rewards" in options:
        return set(weights_of(chosen("rewards", options["rewards"], data_source)))
    return set(weights_of(options.get("weights", name)))
