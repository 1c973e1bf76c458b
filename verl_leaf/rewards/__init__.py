"""Rewards for ``reward.custom_reward_function.path=pkg://verl_leaf.rewards``, called by verl's reward manager.

``reward.custom_reward_function.name`` is one of ``REWARDS``: a metric, ``choice_format``, a weighted ``mix``, or
``by_data_source``. Options go below ``+reward.custom_reward_function.reward_kwargs``. Every reward takes verl's arguments:

- ``data_source``: the row's data source. The suffix ``_swapped_audio`` is ignored.
- ``solution_str``: the answer.
- ``ground_truth``: one reference or a list of them, in the form of :func:`verl_leaf.data.rows.reference_texts`. Any other
  form is an error, because a right answer would score 0.
- ``extra_info``: the row's extra information; rewards of choices need its ``choices``, a list in the order of the letters.

Every reward returns ``score`` in [0, 1], higher for better; ``data_source``, so that validation dumps distinguish data
sets; and the parts of :func:`verl_leaf.rewards.metrics.measure`, which verl reports for each validation as
``val-aux/{data_source}/{part}/mean@{n}``.
"""

from collections.abc import Callable, Iterable, Mapping

from verl_leaf.data.choices import row_choices
from verl_leaf.data.rows import reference_texts
from verl_leaf.rewards.choice import CHOICE_METRICS
from verl_leaf.rewards.metrics import METRICS, measure, part_names
from verl_leaf.rewards.options import chosen, format_weights, weights_of


def _reward_of(metric: str, doc: str) -> Callable:
    def reward(data_source: str, solution_str: str, ground_truth, extra_info=None, *, tokenize=None, **_) -> dict:
        return _score(data_source, solution_str, ground_truth, extra_info, {metric: 1}, tokenize)

    reward.__name__ = reward.__qualname__ = metric
    reward.__doc__ = f"{doc}\n\nFor ``tokenize`` see :func:`mix`."
    return reward


sentence_bleu = _reward_of(
    "sentence_bleu", "sacrebleu's sentence BLEU / 100, case-sensitive, as in the paper (arXiv 2606.07610)."
)
sentence_bleu_uncased = _reward_of("sentence_bleu_uncased", "sacrebleu's sentence BLEU / 100, in lower case.")
chrf = _reward_of("chrf", "sacrebleu's sentence chrF2 / 100, case-sensitive; the best of several references.")
wer = _reward_of("wer", "1 - jiwer's word error rate, at least 0; the best of several references.")
cer = _reward_of("cer", "1 - jiwer's character error rate, at least 0; the best of several references.")
rouge_l = _reward_of("rouge_l", "F1 of rouge-score's ROUGE-L, without stemming; the best of several references.")
exact_match = _reward_of("exact_match", "1 if the answer equals a reference except for white space, otherwise 0.")
choice = _reward_of("choice", "1 if the answer names only the correct choice of the row, otherwise 0.")


def choice_format(
    data_source: str, solution_str: str, ground_truth, extra_info=None, *, weight=0.5, thinking=False, **_
) -> dict:
    """Reward the right choice, and an answer in the format ``<answer>...</answer>`` with nothing else.

    Args:
        weight: weight of the format. 0.5 is that of R1-AQA, which adds both parts (arXiv 2503.11197).
        thinking: True if the format begins with ``<think>...</think>``.
    """
    return _score(data_source, solution_str, ground_truth, extra_info, format_weights(weight, thinking), None)


def mix(
    data_source: str, solution_str: str, ground_truth, extra_info=None, *, weights: Mapping, tokenize=None, **_
) -> dict:
    """Reward with a weighted mean of several metrics.

    Args:
        weights: metric -> weight above 0; the sum must be 1.
        tokenize: sacrebleu's name of the tokeniser for BLEU, word error rate and ROUGE-L, or a mapping from every data
            source to such a name or null. By default, each library uses its own.
    """
    return _score(data_source, solution_str, ground_truth, extra_info, weights_of(weights), tokenize)


def by_data_source(
    data_source: str, solution_str: str, ground_truth, extra_info=None, *, rewards: Mapping, tokenize=None, **_
) -> dict:
    """Reward each data source with its own metric or mix.

    Args:
        rewards: data source -> metric, or weights of a mix.
        tokenize: tokeniser, as in :func:`mix`.

    Returns:
        The result of all rewards. Parts of other data sources are None, because verl's legacy trainer needs the same
            keys in all rows; None never reaches its metrics.

    Raises:
        ValueError: an option is wrong, or ``rewards`` has no entry for the data source.
    """
    weights = weights_of(chosen("rewards", rewards, data_source))
    result = _score(data_source, solution_str, ground_truth, extra_info, weights, tokenize)
    others = {part for reward in rewards.values() for metric in weights_of(reward) for part in _parts_of(metric)}
    return dict.fromkeys(sorted(others)) | result


_OF_ONE_METRIC = (sentence_bleu, sentence_bleu_uncased, chrf, wer, cer, rouge_l, exact_match, choice)
REWARDS = {reward.__name__: reward for reward in (*_OF_ONE_METRIC, choice_format, mix, by_data_source)}


def _score(
    data_source: str,
    answer: str,
    ground_truth,
    extra_info: Mapping | None,
    weights: Mapping[str, float],
    tokenize: str | Mapping | None,
) -> dict:
    references = reference_texts(ground_truth)
    name = chosen("tokenize", tokenize, data_source) if isinstance(tokenize, Mapping) else tokenize
    score = 0.0
    parts: dict[str, float] = {}
    for metric, weight in weights.items():
        if metric in CHOICE_METRICS:
            metric_score, metric_parts = CHOICE_METRICS[metric](answer, references, row_choices(extra_info))
        else:
            metric_score, metric_parts = measure(metric, answer, references, name)
        score += weight * metric_score
        parts |= metric_parts
    return {"score": min(score, 1.0), "data_source": data_source} | parts


def _parts_of(metric: str) -> Iterable[str]:
    return part_names(metric) if metric in METRICS else CHOICE_METRICS[metric]("", ["A"], ("one", "other"))[1]
