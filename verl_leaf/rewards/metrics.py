"""Text metrics of a single answer, computed with sacrebleu, jiwer and rouge-score."""

import functools
import os
import re
from collections.abc import Callable, Iterable

import jiwer
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.utils import SACREBLEU_DIR

from verl_leaf.common.texts import collapse

# The most characters of a text that are scored. The slowest metric is ROUGE-L: its table of tokens x tokens has at most 16
# million cells then, which takes a few seconds if both texts consist of that many single characters.
MAX_CHARACTERS = 4000

Result = tuple[float, float, dict[str, float]]  # score, value as the metric defines it, parts


def measure(
    name: str, answer: str, references: list[str], tokenize: str | None = None
) -> tuple[float, dict[str, float]]:
    """Score an answer.

    White space is stripped and collapsed first; NUL counts as white space, and a lone surrogate becomes ``?``. All
    metrics except ``exact_match`` then use the first ``MAX_CHARACTERS`` characters of a text.

    Args:
        name: key of ``METRICS``.
        references: correct texts, one or more.
        tokenize: sacrebleu's name of the tokeniser for BLEU, word error rate and ROUGE-L. By default each library uses its
            own: ``13a``, white space, and runs of ``a-z0-9`` in lower case.

    Returns:
        The score in [0, 1], higher for better, and its parts, which are the same for every answer: the metric's value under
            its own name, and its components as ``{name}_{part}``. An error rate's value is the raw rate of the best
            reference, which may exceed 1; its score is ``1 - min(rate, 1)``.
    """
    references = [collapse(reference) for reference in references]
    score, value, parts = METRICS[name](collapse(answer), references, tokenize)
    return score, {name: value} | {f"{name}_{part}": number for part, number in parts.items()}


@functools.cache
def part_names(name: str) -> tuple[str, ...]:
    """Return the names of the parts that :func:`measure` returns for a metric."""
    return tuple(measure(name, "", [""])[1])


@functools.cache
def tokenizer(name: str) -> Callable[[str], str]:
    """Return one of sacrebleu's tokenisers, which puts spaces between tokens.

    Raises:
        ValueError: sacrebleu has no such tokeniser, or something that it needs is missing. The message says what to do.
    """
    if name not in BLEU.TOKENIZERS:
        raise ValueError(
            f"tokenize={name}: sacrebleu has no such tokeniser. Choose one of {', '.join(BLEU.TOKENIZERS)}"
        )
    try:
        return BLEU(tokenize=name).tokenizer
    except (RuntimeError, ImportError) as error:  # sacrebleu names the missing package
        raise ValueError(f"tokenize={name}: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise ValueError(
            f"tokenize={name}: sacrebleu could not fetch its model ({error}). On a machine with internet access, run "
            f"`python -c \"import sacrebleu; sacrebleu.BLEU(tokenize='{name}')\"` and copy ~/.sacrebleu/models to "
            f"{os.path.join(SACREBLEU_DIR, 'models')} on every machine. chrf and cer need no tokeniser"
        ) from error


# Metrics that count words, and the tokenisers that sacrebleu recommends for scripts without spaces between words.
COUNT_WORDS = ("sentence_bleu", "sentence_bleu_uncased", "wer", "rouge_l")
_UNSPACED = {
    "ja-mecab": re.compile("[\u3040-\u30ff]"),  # kana
    "zh": re.compile("[\u4e00-\u9fff]"),
    "flores200": re.compile("[\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff]"),  # Thai, Lao, Tibetan, Burmese, Khmer
}


def needed_tokenizer(references: Iterable[str]) -> str | None:
    """Return sacrebleu's tokeniser for the script of most letters of the references, or None if spaces separate words."""
    letters = [letter for text in references for letter in text if letter.isalpha()]
    counts = {name: sum(map(bool, map(script.match, letters))) for name, script in _UNSPACED.items()}
    if 2 * sum(counts.values()) <= len(letters):
        return None
    if 10 * counts["ja-mecab"] > counts["zh"] + counts["ja-mecab"]:
        return "ja-mecab"
    return max(counts, key=counts.__getitem__)


def _bleu(lowercase: bool, answer: str, references: list[str], tokenize: str | None) -> Result:
    metric = _bleu_metric(lowercase, tokenize or BLEU.TOKENIZER_DEFAULT)
    bleu = metric.sentence_score(cut(answer), [*map(cut, references)])
    value = min(bleu.score / 100, 1.0)
    return value, value, {"brevity_penalty": bleu.bp}


def _chrf(answer: str, references: list[str], tokenize: str | None) -> Result:
    value = min(CHRF().sentence_score(cut(answer), [*map(cut, references)]).score / 100, 1.0)
    return value, value, {}


def _wer(answer: str, references: list[str], tokenize: str | None) -> Result:
    words = tokenizer(tokenize or "none")
    return _lowest(jiwer.wer, words(cut(answer)), [words(cut(reference)) for reference in references])


def _cer(answer: str, references: list[str], tokenize: str | None) -> Result:
    return _lowest(jiwer.cer, cut(answer), [*map(cut, references)])


def _lowest(error_rate: Callable, answer: str, references: list[str]) -> Result:
    lowest = min(float(error_rate(reference, answer)) for reference in references)
    return 1 - min(lowest, 1.0), lowest, {}


def _rouge_l(answer: str, references: list[str], tokenize: str | None) -> Result:
    rouge = _rouge_scorer(tokenize).score_multi([*map(cut, references)], cut(answer))["rougeL"]
    value = float(rouge.fmeasure)
    return value, value, {"precision": float(rouge.precision), "recall": float(rouge.recall)}


def _exact_match(answer: str, references: list[str], tokenize: str | None) -> Result:
    value = float(answer in references)
    return value, value, {}


METRICS: dict[str, Callable[[str, list[str], str | None], Result]] = {
    "sentence_bleu": functools.partial(_bleu, False),
    "sentence_bleu_uncased": functools.partial(_bleu, True),
    "chrf": _chrf,
    "wer": _wer,
    "cer": _cer,
    "rouge_l": _rouge_l,
    "exact_match": _exact_match,
}


# Shared by all answers, because sacrebleu keeps every tokeniser that was ever called, with its dictionary or model.
@functools.cache
def _bleu_metric(lowercase: bool, tokenize: str) -> BLEU:
    metric = BLEU(lowercase=lowercase, effective_order=True)
    metric.tokenizer = tokenizer(tokenize)
    return metric


@functools.cache
def _rouge_scorer(tokenize: str | None) -> rouge_scorer.RougeScorer:
    return rouge_scorer.RougeScorer(["rougeL"], tokenizer=tokenize and RougeTokenizer(tokenizer(tokenize)))


class RougeTokenizer:
    """A tokeniser of sacrebleu with the interface of rouge-score."""

    def __init__(self, words: Callable[[str], str]):
        self.words = words

    def tokenize(self, text: str) -> list[str]:
        return self.words(text.lower()).split()


def cut(text: str) -> str:
    """Return a text truncated to what the metric libraries are given."""
    return text[:MAX_CHARACTERS]
