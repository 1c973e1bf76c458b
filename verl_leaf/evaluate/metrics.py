"""Corpus scores with sacrebleu, jiwer, rouge-score, NLTK and bert-score.

A metric turns every answer into a few numbers. Their sums over any set of answers give the score of the set, so intervals
and tests only add up rows of a table and do not call the library again.

Letters: N answers, S numbers per answer.
"""

import functools
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import jiwer
import numpy as np
from rouge_score import rouge_scorer
from sacrebleu.metrics import BLEU, CHRF

from verl_leaf.common.texts import collapse
from verl_leaf.evaluate.models import BertModel, wordnet
from verl_leaf.rewards.choice import CHOICE_METRICS
from verl_leaf.rewards.metrics import MAX_CHARACTERS, RougeTokenizer, needed_tokenizer, tokenizer

Texts = Sequence[str]
References = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Scorer:
    """The computation of a score from sums of statistics."""

    name: str  # key of `METRICS`, or name of a judge
    title: str  # title in tables; a down arrow marks a score of which lower is better
    signature: str  # settings that the score depends on
    # Function from sums `[..., S]` to scores `[...]`; NaN if there is nothing to score.
    score: Callable[[np.ndarray], np.ndarray]
    # Both ends of the scale, if the score is a mean over answers with statistics (sum, count); otherwise None.
    scale: tuple[float, float] | None


@dataclass(frozen=True)
class Metric(Scorer):
    """A metric that is ready to score."""

    # Function from answers, references and choices to `[N, S]` float64.
    statistics: Callable[[Texts, References, References], np.ndarray]
    reads: int | None  # number of characters of each text that are read, or None for all


@dataclass(frozen=True)
class ScoreOptions:
    """The options of all metrics."""

    lowercase: bool = False  # True to score lower-cased texts with every metric
    # sacrebleu's tokeniser for BLEU, word error rate and ROUGE, or None for each library's default, as in the rewards.
    tokenize: str | None = None
    bert: BertModel | None = None  # model of BERTScore, or None


class Missing(ValueError):
    """An error if a metric needs something that is not installed, or cannot score a script. The message says what to do."""


def build(name: str, options: ScoreOptions, references: Collection[str] = ()) -> Metric:
    """Return a metric by name, which must be able to score the references.

    Raises:
        Missing: something that the metric needs is missing, or it cannot score the script of the references.
        ValueError: the tokeniser is unknown, or lacks something.
    """
    title, make = METRICS[name]
    try:
        signature, statistics_of, score, scale = make(options)
    except LookupError as error:
        raise Missing(str(error.args[0])) from error
    if name == "choice":  # capitals and line ends matter
        return Metric(name, title, signature, score, scale, statistics_of, None)
    if blind := _cannot_score(name, options, references):
        raise Missing(blind)
    reads = MAX_CHARACTERS if name in SLOW else None

    def clean(text: str) -> str:
        text = collapse(text)[:reads]
        return text.lower() if options.lowercase else text

    def statistics_of_clean(texts: Texts, references: References, _choices: References = ()) -> np.ndarray:
        lists = [[clean(reference) for reference in of_answer] for of_answer in references]
        return np.asarray(statistics_of([clean(text) for text in texts], lists), dtype=np.float64)

    if options.lowercase and "case:" not in signature:
        signature += "|case:lc"
    return Metric(name, title, signature, score, scale, statistics_of_clean, reads)


def _cannot_score(name: str, options: ScoreOptions, references: Collection[str]) -> str | None:
    """Return why a metric would score even a perfect answer to some of these references near 0, or None."""
    if name.startswith("rouge") and options.tokenize is None:
        why, remedy = "rouge-score keeps only a to z and 0 to 9", ". Set another tokeniser with --tokenize, such as 13a"
        lost = [text for text in references if 2 * len(_LATIN.findall(text)) < sum(map(str.isalnum, text))]
    elif name == "meteor":
        why, remedy = "its tokeniser needs spaces between words", ""
        lost = [text for text in references if needed_tokenizer([text])]
    else:
        return None
    if len(lost) <= len(references) / 20:
        return None
    return f"{why}, so it cannot score {len(lost)} of {len(references)} references, such as {lost[0]!r:.40}{remedy}"


Statistics = Callable[..., Any]  # function from texts, references and, for some metrics, choices to [N, S]
Score = Callable[[np.ndarray], np.ndarray]
Scale = tuple[float, float] | None
Parts = tuple[str, Statistics, Score, Scale]

SLOW = ("rougeL", "meteor")  # they compare all pairs of words, which takes minutes beyond MAX_CHARACTERS
_LATIN = re.compile("[a-zA-Z0-9]")


def _bleu(options: ScoreOptions) -> Parts:
    bleu = BLEU(lowercase=options.lowercase)
    bleu.tokenizer = tokenizer(options.tokenize or BLEU.TOKENIZER_DEFAULT)
    case, name = "lc" if options.lowercase else "mixed", options.tokenize or BLEU.TOKENIZER_DEFAULT
    return f"case:{case}|eff:no|tok:{name}|smooth:exp|{_version('sacrebleu')}", *_of_sacrebleu(bleu)


def _chrf(options: ScoreOptions) -> Parts:
    case = "lc" if options.lowercase else "mixed"
    return f"case:{case}|eff:yes|nc:6|nw:0|space:no|{_version('sacrebleu')}", *_of_sacrebleu(CHRF())


def _of_sacrebleu(metric) -> tuple[Statistics, Score, Scale]:
    """Return the functions that sacrebleu's own significance tests use (sacrebleu/significance.py)."""

    def statistics_of(texts: Texts, references: References) -> list[list[int]]:
        most = max(map(len, references))
        streams = [[row[k] if k < len(row) else None for row in references] for k in range(most)]
        return metric._extract_corpus_statistics(texts, streams)

    def score(sums: np.ndarray) -> np.ndarray:
        flat = [metric._compute_score_from_stats(row).score for row in sums.reshape(-1, sums.shape[-1]).tolist()]
        return np.array(flat).reshape(sums.shape[:-1])

    return statistics_of, score, None


def judged(name: str, model: str, kind: str, scale: tuple[float, float]) -> Scorer:
    """Return the scorer of a judge's mean grade. Its statistics are ``[grade, 1]`` per answer, NaN if the grade is missing."""
    title = f"{name}, net advantage" if kind == "pairwise" else name
    return Scorer(name, title, f"judge {model}, {kind}", _mean, scale)


def _error_rate(measure: Callable, unit: str, options: ScoreOptions) -> Parts:
    """Return an error rate: errors per unit of the references, over all answers, with the best reference of each answer."""
    words = tokenizer(options.tokenize or "none") if unit == "words" else str

    def one(text: str, references: Sequence[str]) -> tuple[int, int]:
        counts = []
        for reference in references:
            edits = measure(words(reference), words(text))
            errors = edits.substitutions + edits.deletions + edits.insertions
            counts.append((errors, edits.hits + edits.substitutions + edits.deletions))
        return min(counts, key=lambda count: count[0] / max(count[1], 1))

    name = f"tok:{options.tokenize or 'none'}|" if unit == "words" else ""
    return f"{name}{_version('jiwer')}", functools.partial(_each, one), _mean, None


def _rouge(kind: str, options: ScoreOptions) -> Parts:
    words = RougeTokenizer(tokenizer(options.tokenize)) if options.tokenize else None
    scorer = rouge_scorer.RougeScorer([kind], tokenizer=words)
    signature = f"F1|stemmer:no|tok:{options.tokenize or 'a-z0-9'}|{_version('rouge-score')}"
    return signature, *_mean_of(lambda text, references: scorer.score_multi(references, text)[kind].fmeasure)


def _meteor(options: ScoreOptions) -> Parts:
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.translate.meteor_score import meteor_score

    synonyms, words = wordnet(), NLTKWordTokenizer().tokenize

    def one(text: str, references: Sequence[str]) -> float:
        return float(meteor_score([*map(words, references)], words(text), wordnet=synonyms))

    signature = f"WordNet:{synonyms.get_version()}|tok:NLTKWordTokenizer|{_version('nltk')}"
    return signature, *_mean_of(one)


def _bertscore(options: ScoreOptions) -> Parts:
    if options.bert is None:
        raise LookupError(
            "it needs a model. Give --bertscore roberta-large@17 (English), or bert-base-multilingual-cased@9 as in the paper"
        )
    bert = options.bert
    bert.check()

    def statistics_of(texts: Texts, references: References) -> np.ndarray:
        values = np.zeros(len(texts))  # 0 for empty texts, on which bert-score 0.3.13 crashes
        full = [n for n, of_answer in enumerate(references) if texts[n] and any(of_answer)]
        if full:
            lists = [[reference for reference in references[n] if reference] for n in full]
            values[full] = bert.load()([texts[n] for n in full], lists)
        return np.stack([values, np.ones(len(texts))], axis=1)

    return bert.signature(), statistics_of, _mean, None


def _exact_match(options: ScoreOptions) -> Parts:
    return "white space aside", *_mean_of(lambda text, references: float(text in references))


def _choice(options: ScoreOptions) -> Parts:
    def statistics_of(texts: Texts, references: References, choices: References) -> np.ndarray:
        scores = [CHOICE_METRICS["choice"](*row)[0] for row in zip(texts, references, choices, strict=True)]
        return np.stack([scores, np.ones(len(scores))], axis=1)

    return "the one choice that an answer names, by letter or text", statistics_of, _mean, (0.0, 1.0)


def _mean_of(one: Callable[[str, Sequence[str]], float]) -> tuple[Statistics, Score, Scale]:
    return functools.partial(_each, lambda text, references: (one(text, references), 1.0)), _mean, (0.0, 1.0)


def _mean(sums: np.ndarray) -> np.ndarray:
    return np.divide(sums[..., 0], sums[..., 1], out=np.full(sums.shape[:-1], np.nan), where=sums[..., 1] > 0)


def _each(one: Callable[[str, Sequence[str]], tuple], texts: Texts, references: References) -> list[tuple]:
    return [one(*pair) for pair in zip(texts, references, strict=True)]


def _version(distribution: str) -> str:
    return f"{distribution}:{version(distribution)}"


# Name -> title, and function that makes signature, statistics, score and scale.
METRICS: dict[str, tuple[str, Callable[[ScoreOptions], Parts]]] = {
    "bleu": ("BLEU", _bleu),
    "chrf": ("chrF2", _chrf),
    "rouge1": ("ROUGE-1", functools.partial(_rouge, "rouge1")),
    "rouge2": ("ROUGE-2", functools.partial(_rouge, "rouge2")),
    "rougeL": ("ROUGE-L", functools.partial(_rouge, "rougeL")),
    "meteor": ("METEOR", _meteor),
    "bertscore": ("BERTScore", _bertscore),
    "wer": ("WER ↓", functools.partial(_error_rate, jiwer.process_words, "words")),
    "cer": ("CER ↓", functools.partial(_error_rate, jiwer.process_characters, "characters")),
    "exact_match": ("exact match", _exact_match),
    "choice": ("accuracy", _choice),
}
TEXT_METRICS = [name for name in METRICS if name != "choice"]  # for rows without choices
