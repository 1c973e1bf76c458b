"""WordNet for METEOR, and the model of BERTScore."""

import functools
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from verl_leaf.checks.model import model_config

WORDNET_REMEDY = (
    "NLTK finds no WordNet. Run `python -m nltk.downloader wordnet`, or copy its folder corpora/wordnet from another "
    "machine and set NLTK_DATA to the folder that contains corpora"
)


@functools.cache
def wordnet():
    """Return NLTK's reader of the English WordNet; raise LookupError if WordNet is not installed, or is incomplete."""
    import nltk.data
    from nltk.corpus.reader import WordNetCorpusReader

    for path in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a warning about other languages, which METEOR does not use
                return WordNetCorpusReader(nltk.data.find(path), None)
        except OSError as error:
            raise LookupError(f"{WORDNET_REMEDY} ({error})") from error
        except LookupError:
            continue
    raise LookupError(WORDNET_REMEDY)


@dataclass(frozen=True)
class BertModel:
    """A model of BERTScore, and the layer whose outputs are compared."""

    name: str  # hub name or folder
    layer: int  # number of the layer, starting at 1

    @classmethod
    def parse(cls, text: str) -> "BertModel":
        """Return the model of a text ``MODEL@LAYER``."""
        name, _, layer = text.rpartition("@")
        if not name or not layer.isdecimal() or not int(layer):
            raise ValueError(f"--bertscore {text}: write MODEL@LAYER, such as roberta-large@17")
        return cls(name, int(layer))

    def check(self) -> None:
        """Raise an error now if the model could not be loaded later, after generation.

        Raises:
            LookupError: bert-score is not installed.
            ValueError: there is no such model.
        """
        if importlib.util.find_spec("bert_score") is None:
            raise LookupError("bert-score is not installed. Run pip install 'verl-leaf[evaluate]'")
        layers = model_config(self.name).num_hidden_layers
        if self.layer > layers:
            raise ValueError(f"--bertscore {self.name}@{self.layer}: the model has only {layers} layers")

    @functools.cache  # noqa: B019  (one per process)
    def load(self) -> Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[float]]:
        """Return a function from answers and references without empty texts to F1 with the best reference."""
        from bert_score import BERTScorer

        scorer = BERTScorer(model_type=self.name, num_layers=self.layer, idf=False)
        return lambda texts, references: scorer.score(texts, references)[2].numpy()

    def signature(self) -> str:
        """Return bert-score's hash of model, layer and versions."""
        from bert_score.utils import get_hash

        return "F1|" + get_hash(self.name, self.layer, False, False, False, False)
