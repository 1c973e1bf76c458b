"""What METEOR and BERTScore need beside Python packages: WordNet, and a model."""

import functools
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from verl_leaf.checks.model import model_config

WORDNET_REMEDY = (
    "NLTK finds no WordNet: run `python -m nltk.downloader wordnet`, or copy its folder corpora/wordnet from another "
    "machine and set NLTK_DATA to the folder that corpora is in"
)


@functools.cache
def wordnet():
    """NLTK's reader of the English WordNet.

    Raises:
        LookupError: it is not installed, or not complete.
    """
    import nltk.data
    from nltk.corpus.reader import WordNetCorpusReader

    for path in ("corpora/wordnet", "corpora/wordnet.zip/wordnet/"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about other languages, which METEOR does not use
                return WordNetCorpusReader(nltk.data.find(path), None)
        except OSError as error:
            raise LookupError(f"{WORDNET_REMEDY} ({error})") from error
        except LookupError:
            continue
    raise LookupError(WORDNET_REMEDY)


@dataclass(frozen=True)
class BertModel:
    """A model of BERTScore, and the layer whose outputs are compared.

    Attributes:
        name: hub name or folder.
        layer: counted from 1.
    """

    name: str
    layer: int

    @classmethod
    def parse(cls, text: str) -> "BertModel":
        """``MODEL@LAYER``.

        Raises:
            ValueError: it is something else.
        """
        name, _, layer = text.rpartition("@")
        if not name or not layer.isdecimal() or not int(layer):
            raise ValueError(f"--bertscore {text}: must be MODEL@LAYER, such as roberta-large@17")
        return cls(name, int(layer))

    def check(self) -> None:
        """Stop where it could not be loaded later: it is, once the engine has left the GPU.

        Raises:
            LookupError: bert-score is not installed.
            ValueError: there is no such model.
        """
        if importlib.util.find_spec("bert_score") is None:
            raise LookupError("pip install 'verl-leaf[evaluate]' brings bert-score")
        layers = model_config(self.name).num_hidden_layers
        if self.layer > layers:
            raise ValueError(f"--bertscore {self.name}@{self.layer}: the model has {layers} layers")

    @functools.cache  # noqa: B019  (one per process)
    def load(self) -> Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[float]]:
        """A function from answers and their references to F1, the best of the references; none of the texts is empty."""
        from bert_score import BERTScorer

        scorer = BERTScorer(model_type=self.name, num_layers=self.layer, idf=False)
        return lambda texts, references: scorer.score(list(texts), [list(own) for own in references])[2].numpy()

    def signature(self) -> str:
        """bert-score's hash of model, layer and versions."""
        from bert_score.utils import get_hash

        return "F1|" + get_hash(self.name, self.layer, False, False, False, False)
