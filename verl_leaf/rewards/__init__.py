"""Rewards for ``reward.custom_reward_function.path=pkg://verl_leaf.rewards``, called by veRL's reward manager.

``reward.custom_reward_function.name`` is one of ``REWARDS``: a metric, a weighted ``mix`` of them, or ``by_data_source``.
Options go below ``+reward.custom_reward_function.reward_kwargs``. Every reward takes veRL's arguments:

- ``data_source``: the row's column. A name that ends in ``_swapped_audio`` belongs to the data source without it.
- ``solution_str``: the answer.
- ``ground_truth``: one reference, or a list of them.

It returns ``score`` in [0, 1], higher for better; ``data_source``, so that dumps of validation tell data sets apart; and
the parts of :func:`verl_leaf.rewards.metrics.measure`, which veRL reports for each validation as
``val-aux/{data_source}/{part}/mean@{n}``.
"""

import inspect
from collections.abc import Callable, Mapping

import numpy as np

from verl_leaf.rewards.metrics import COUNT_WORDS, METRICS, measure, needed_tokenizer, part_names, tokenizer
from verl_leaf.speech.swap import SUFFIX


def _reward_of(metric: str, doc: str) -> Callable:
    def reward(data_source: str, solution_str: str, ground_truth, extra_info=None, *, tokenize=None, **_) -> dict:
        return _score(data_source, solution_str, ground_truth, {metric: 1}, tokenize)

    reward.__name__ = reward.__qualname__ = metric
    reward.__doc__ = f"{doc}\n\nFor ``tokenize`` see :func:`mix`."
    return reward


sentence_bleu = _reward_of(
    "sentence_bleu", "sacrebleu's sentence BLEU / 100, case-sensitive, as the paper rewards it (arXiv 2606.07610)."
)
sentence_bleu_uncased = _reward_of("sentence_bleu_uncased", "The same in lower case.")
chrf = _reward_of("chrf", "sacrebleu's sentence chrF2 / 100, case-sensitive; of several references, the best.")
wer = _reward_of("wer", "1 - jiwer's word error rate, at least 0; of several references, the best.")
cer = _reward_of("cer", "1 - jiwer's character error rate, at least 0; of several references, the best.")
rouge_l = _reward_of("rouge_l", "F1 of rouge-score's ROUGE-L, without stemming; of several references, the best.")
exact_match = _reward_of("exact_match", "1 where the answer is one of the references, white space aside; else 0.")


def mix(
    data_source: str, solution_str: str, ground_truth, extra_info=None, *, weights: Mapping, tokenize=None, **_
) -> dict:
    """Weighted mean of several metrics.

    Args:
        weights: metric -> weight above 0; together 1.
        tokenize: sacrebleu's name of a tokeniser, or a mapping from every data source to one (or to null). It makes the
            words of BLEU, the word error rate and ROUGE-L; not given, each library has its own way.

    Raises:
        ValueError: an option is wrong; veRL stops for the same before its engines start.
    """
    return _score(data_source, solution_str, ground_truth, _weights(weights), tokenize)


def by_data_source(
    data_source: str, solution_str: str, ground_truth, extra_info=None, *, rewards: Mapping, tokenize=None, **_
) -> dict:
    """Each data source's own reward.

    Args:
        rewards: data source -> a metric, or the weights of a mix.
        tokenize: as for :func:`mix`.

    Returns:
        As all rewards. Parts that only other data sources have are None: veRL's legacy trainer needs the same keys in
        all rows, and no value of None reaches its metrics.

    Raises:
        ValueError: an option is wrong, or ``rewards`` does not know the data source.
    """
    result = _score(
        data_source, solution_str, ground_truth, _weights(_chosen("rewards", rewards, data_source)), tokenize
    )
    others = {part for reward in rewards.values() for metric in _weights(reward) for part in part_names(metric)}
    return dict.fromkeys(sorted(others)) | result


REWARDS = {
    reward.__name__: reward
    for reward in (
        sentence_bleu,
        sentence_bleu_uncased,
        chrf,
        wer,
        cer,
        rouge_l,
        exact_match,
        mix,
        by_data_source,
    )
}


def check_reward(name: str, options: Mapping, references: Mapping[str, list[str]]) -> None:
    """Stop unless a reward can score all rows.

    Args:
        name: ``reward.custom_reward_function.name``.
        options: ``reward.custom_reward_function.reward_kwargs``.
        references: data source -> some of its references.

    Raises:
        ValueError: no such reward or option, a wrong value, a data source without an entry, a tokeniser that lacks
            something, or none where a metric counts words and the references have no spaces between them; the message
            says what there is or what to do.
    """
    if name not in REWARDS:
        raise ValueError(f"name={name}: no such reward; there are {', '.join(REWARDS)}")
    parameters = [p for p in inspect.signature(REWARDS[name]).parameters.values() if p.kind is p.KEYWORD_ONLY]
    valid = [p.name for p in parameters]
    if unknown := [option for option in options if option not in valid]:
        raise ValueError(f"reward_kwargs: {name} has no option {', '.join(unknown)}; valid: {', '.join(valid)}")
    if missing := [p.name for p in parameters if p.default is p.empty and p.name not in options]:
        raise ValueError(f"reward_kwargs: {name} needs {', '.join(missing)}")
    rewards, tokenize = options.get("rewards", {}), options.get("tokenize")
    if not isinstance(rewards, Mapping):
        raise ValueError(f"reward_kwargs: rewards={rewards}: must be a mapping from data sources to rewards")
    for reward in [options["weights"]] if "weights" in options else rewards.values():
        _weights(reward)
    for tokenizer_name in tokenize.values() if isinstance(tokenize, Mapping) else [tokenize]:
        if tokenizer_name is not None:
            tokenizer(tokenizer_name)
    for data_source, texts in references.items():
        reward = _chosen("rewards", rewards, data_source) if "rewards" in options else options.get("weights", name)
        if isinstance(tokenize, Mapping):
            _chosen("tokenize", tokenize, data_source)
        needed = needed_tokenizer(texts)
        if needed and "tokenize" not in options and set(_weights(reward)) & set(COUNT_WORDS):
            raise ValueError(
                f"the references of the data source {data_source!r} have no spaces between words, which "
                f"{', '.join(_weights(reward))} would count: set reward_kwargs.tokenize={needed} (README, Rewards), or "
                "null to do without"
            )


def _score(
    data_source: str, answer: str, ground_truth, weights: Mapping[str, float], tokenize: str | Mapping | None
) -> dict:
    references = [*map(str, ground_truth)] if isinstance(ground_truth, list | np.ndarray) else [str(ground_truth)]
    if isinstance(tokenize, Mapping):
        tokenize = _chosen("tokenize", tokenize, data_source)
    score, parts = 0.0, {}
    for metric, weight in weights.items():
        metric_score, metric_parts = measure(metric, answer, references, tokenize)
        score += weight * metric_score
        parts |= metric_parts
    return {"score": min(score, 1.0), "data_source": data_source} | parts


def _weights(reward: str | Mapping) -> Mapping[str, float]:
    weights = {reward: 1} if isinstance(reward, str) else reward
    if not isinstance(weights, Mapping):
        raise ValueError(f"{reward} is neither a metric nor the weights of several")
    if unknown := [str(metric) for metric in weights if metric not in METRICS]:
        raise ValueError(f"no metric {', '.join(unknown)}; there are {', '.join(METRICS)}")
    numbers = [weight for weight in weights.values() if isinstance(weight, int | float) and weight > 0]
    if len(numbers) < len(weights) or abs(sum(numbers) - 1) > 1e-6:
        raise ValueError(f"weights must be numbers above 0 and sum to 1, got {dict(weights)}")
    return weights


def _chosen(option: str, by_source: Mapping, data_source: str):
    base = data_source.removesuffix(SUFFIX)
    if base not in by_source:
        raise ValueError(f"{option}: no entry for the data source {base!r}; there are {', '.join(map(str, by_source))}")
    return by_source[base]
