"""Checks before a run of whether a reward can score all rows."""

import inspect
from collections.abc import Mapping, Sequence

from verl_leaf.data.choices import right_choice, row_choices
from verl_leaf.rewards import REWARDS
from verl_leaf.rewards.metrics import COUNT_WORDS, needed_tokenizer, tokenizer
from verl_leaf.rewards.options import chosen, format_weights, metrics_of, weights_of


def check_reward(name: str, options: Mapping, references: Mapping[str, list[str]]) -> None:
    """Raise an error unless a reward can score all rows.

    Args:
        name: ``reward.custom_reward_function.name``.
        options: ``reward.custom_reward_function.reward_kwargs``.
        references: data source -> some of its references.

    Raises:
        ValueError: there is no such reward or option, a value is wrong, a data source has no entry, a tokeniser lacks
            something, or a metric counts words of references without spaces and no tokeniser is set. The message lists the
            valid values, or says what to do.
    """
    if name not in REWARDS:
        raise ValueError(f"name={name}: there is no such reward. Choose one of {', '.join(REWARDS)}")
    parameters = [p for p in inspect.signature(REWARDS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    valid = [p.name for p in parameters]
    if unknown := [option for option in options if option not in valid]:
        raise ValueError(
            f"reward_kwargs: {name} has no option {', '.join(unknown)}. Its options are {', '.join(valid)}"
        )
    if missing := [p.name for p in parameters if p.default is p.empty and p.name not in options]:
        raise ValueError(f"reward_kwargs: {name} needs {', '.join(missing)}")
    rewards, tokenize = options.get("rewards", {}), options.get("tokenize")
    if not isinstance(rewards, Mapping):
        raise ValueError(f"reward_kwargs: rewards={rewards}: give a mapping from data sources to rewards")
    for reward in [options["weights"]] if "weights" in options else rewards.values():
        weights_of(reward)
    if name == "choice_format":
        format_weights(**options)
    for tokenizer_name in tokenize.values() if isinstance(tokenize, Mapping) else [tokenize]:
        if tokenizer_name is not None:
            tokenizer(tokenizer_name)
    for data_source, texts in references.items():
        metrics = metrics_of(name, options, data_source)
        if isinstance(tokenize, Mapping):
            chosen("tokenize", tokenize, data_source)
        needed = needed_tokenizer(texts)
        if needed and "tokenize" not in options and metrics & set(COUNT_WORDS):
            raise ValueError(
                f"the references of the data source {data_source!r} have no spaces between words, but "
                f"{', '.join(sorted(metrics & set(COUNT_WORDS)))} counts words. Set reward_kwargs.tokenize={needed} "
                "(verl_leaf/rewards/README.md), or null to use the library's default"
            )


def check_row(name: str, options: Mapping, data_source: str, references: Sequence[str], extra_info) -> None:
    """Raise ValueError if a reward needs a row's choices and does not find the right one among them."""
    if name not in REWARDS or "choice" not in metrics_of(name, options, data_source):
        return
    choices = row_choices(extra_info)
    if not choices:
        raise ValueError(
            f"the row has no extra_info.choices, which the reward {name} needs. Make the rows with `verl-leaf prepare audioqa`"
        )
    right_choice(references, choices)
