"""Corpus BLEU of a run, with the tokeniser of the run's reward."""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import sacrebleu
from omegaconf import DictConfig, OmegaConf
from sacrebleu.metrics import BLEU

from verl_leaf.common.names import REWARD_PATHS, SWAPPED_AUDIO_SUFFIX
from verl_leaf.rewards.metrics import needed_tokenizer, tokenizer
from verl_leaf.rewards.options import chosen


class CorpusBleu:
    """sacrebleu's case-insensitive corpus BLEU, with a tokeniser per data source.

    The tokeniser is the reward's. If the reward sets none, it is the one that the script of the references needs, or
    characters if that one is not installed.

    Attributes:
        signature: sacrebleu's description of the settings.
    """

    def __init__(self, config: DictConfig, references: Iterable[tuple[str, Sequence[str]]]):
        texts: dict[str, list[str]] = defaultdict(list)
        for source, row in references:
            texts[source.removesuffix(SWAPPED_AUDIO_SUFFIX)] += row
        names = {source: _tokenizer_of(config, source, known) for source, known in texts.items()}
        self._words = {source: tokenizer(name) for source, name in names.items()}
        distinct = {*names.values()}
        if len(distinct) > 1:
            distinct = {f"{source}={name}" for source, name in names.items()}
        tokenize = ",".join(sorted(distinct))
        self.signature = f"case:lc|eff:no|tok:{tokenize}|smooth:exp|version:{sacrebleu.__version__}"

    def __call__(self, rows: Sequence[tuple[str, str, Sequence[str]]]) -> float:
        """Return the score, 0 to 100, of rows given as data source, answer and references."""

        def words(source: str, text: str) -> str:
            return self._words[source.removesuffix(SWAPPED_AUDIO_SUFFIX)](text.lower().rstrip())

        answers = [words(source, answer) for source, answer, _ in rows]
        references = [[words(source, text) for text in texts] for source, _, texts in rows]
        columns = [list(column) for column in itertools.zip_longest(*references)]
        return sacrebleu.corpus_bleu(answers, columns, tokenize="none", force=True).score


def _tokenizer_of(config: DictConfig, source: str, references: Sequence[str]) -> str:
    reward = OmegaConf.select(config, "reward.custom_reward_function") or {}
    options = (reward.get("reward_kwargs") or {}) if reward.get("path") in REWARD_PATHS else {}
    if "tokenize" in options:
        tokenize = options["tokenize"]
        name = chosen("tokenize", tokenize, source) if isinstance(tokenize, Mapping) else tokenize
        return name or BLEU.TOKENIZER_DEFAULT
    name = needed_tokenizer(references) or BLEU.TOKENIZER_DEFAULT
    try:
        tokenizer(name)
    except ValueError:
        return "char"
    return name
