"""The command on answers that were made elsewhere: tables, files, what is refused."""

import csv
import json

import pytest

from tests.evaluate.conftest import REFERENCES, evaluate
from verl_leaf.runs.swap import write_rows

SAMPLED = [(row, sample, text) for row, text in enumerate(REFERENCES) for sample in range(2)]
WORSE = [(row, sample, text.split()[sample]) for row, sample, text in SAMPLED]


def test_tables_and_files(data, answers, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    good, bad = answers("good", SAMPLED), answers("bad", WORSE)
    out = tmp_path / "out"
    assert evaluate(good, f"worse={bad}", "--data", data, "--out", out, "--against", "worse") == 0
    printed = capsys.readouterr().out
    assert "METEOR: not computed: " in printed and "BERTScore: not computed: it needs a model" in printed
    assert "Scores: mean of 2 passes and their standard deviation; 95 % interval over 3 clips" in printed
    summary = json.loads((out / "summary.json").read_text())
    scores = {(line["data_source"], line["metric"], line["system"]): line for line in summary["scores"]}
    assert {source for source, *_ in scores} == {"animals", "people", "all"}
    assert scores["all", "BLEU", "good"]["mean"] == pytest.approx(100) and scores["all", "WER ↓", "good"]["mean"] == 0
    # The first words alone, then the second ones: 3 + 5 + 3 + 4 words of which one is right each time.
    assert scores["all", "WER ↓", "worse"]["mean"] == pytest.approx(11 / 15)
    assert (scores["all", "WER ↓", "worse"]["spread"], summary["notes"]["clusters"]) == (0, 3)
    assert summary["signatures"]["BLEU"].startswith("case:mixed|eff:no|tok:13a|smooth:exp|sacrebleu:")
    # All of the animals are one clip, and three clips are too few as well.
    assert all(line[key] is None for line in summary["differences"] for key in ("p", "p_holm", "low", "high"))
    assert (
        "with fewer than 6 clips no test can reach 0.05" in printed
        and "fewer than 30 clips, or fewer than 10" in printed
    )
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert len(rows) == len(scores) and {row["system"] for row in rows} == {"good", "worse"}
    markdown, latex = (out / "report.md").read_text(), (out / "report.tex").read_text()
    assert "| all | BLEU | good | 100.0 | 0.000 | " in markdown
    assert r"all & WER $\downarrow$ & worse & 0.733" in latex and "chrF2" in latex and r"95 \% interval" in latex


def test_no_table_of_an_earlier_command_is_left(data, answers, tmp_path):
    good, bad, out = answers("good", SAMPLED), answers("bad", WORSE), tmp_path / "out"
    assert evaluate(good, bad, "--data", data, "--out", out, "--metrics", "wer") == 0
    assert (out / "differences.csv").exists()
    assert evaluate(good, "--data", data, "--out", out, "--metrics", "wer") == 0
    assert sorted(file.stem for file in out.glob("*.csv")) == ["answers", "scores"]


def test_paper_scores_lower_case(data, answers, tmp_path):
    shouted = answers("shouted", [text.upper() for text in REFERENCES])
    for name, flags in (("plain", []), ("paper", ["--paper"])):
        assert evaluate(shouted, "--data", data, "--out", tmp_path / name, "--metrics", "bleu", "wer", *flags) == 0
    plain, paper = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("plain", "paper"))
    assert [line["mean"] for line in paper["scores"] if line["data_source"] == "all"] == pytest.approx([100, 0])
    assert next(line["mean"] for line in plain["scores"] if line["data_source"] == "all") < 1
    assert "case:lc" in paper["signatures"]["BLEU"] and "case:lc" in paper["signatures"]["WER ↓"]


def test_what_is_cut_or_not_computed_is_said(tmp_path, answers, capsys):
    """A source that ROUGE cannot score has none, nor have all sources together; rows without audio do not count as clips."""
    rows = [
        {
            "data_source": source,
            "prompt": [{"role": "user", "content": "Repeat."}],
            "reward_model": {"ground_truth": text},
            "extra_info": {"split": "validation"},
        }
        for source, text in (("russian", "Две собаки спят"), ("english", "dogs " * 2000))
    ]
    write_rows(rows, tmp_path / "two.parquet")
    perfect = answers("perfect", [row["reward_model"]["ground_truth"] for row in rows])
    assert evaluate(perfect, "--data", tmp_path / "two.parquet", "--out", tmp_path / "out") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "ROUGE-1: not computed: russian: rouge-score keeps only a to z and 0 to 9" in printed
    assert "ROUGE-L: only the first 4000 characters of 2 texts were read" in printed
    assert "95 % interval over 2 rows" in printed
    scores = json.loads((tmp_path / "out/summary.json").read_text())["scores"]
    assert {line["data_source"] for line in scores if line["metric"] == "ROUGE-1"} == {"english"}
    assert {line["data_source"] for line in scores if line["metric"] == "BLEU"} == {"english", "russian", "all"}
    # Of the common rows there may be none that a metric can score.
    russian = answers("russian", [(0, 0, "Две собаки спят")])
    assert evaluate(russian, "--data", tmp_path / "two.parquet", "--out", tmp_path / "common", "--common") == 0
    scores = json.loads((tmp_path / "common/summary.json").read_text())["scores"]
    assert {line["data_source"] for line in scores} == {"russian"} and "ROUGE-1" not in {
        line["metric"] for line in scores
    }


def test_what_has_no_words_has_no_word_error_rate_and_a_source_may_be_called_all(tmp_path, answers):
    texts = [("all", "zwei Hunde"), ("all", ""), ("none", "")]
    rows = [
        {
            "data_source": source,
            "prompt": [{"role": "user", "content": "Repeat."}],
            "reward_model": {"ground_truth": text},
            "extra_info": {"split": "validation"},
        }
        for source, text in texts
    ]
    write_rows(rows, tmp_path / "few.parquet")
    one, two = answers("one", ["zwei Hunde", "", "zu viel"]), answers("two", ["ein Hund", "bellt", ""])
    arguments = ["--data", tmp_path / "few.parquet", "--out", tmp_path / "out", "--metrics", "wer", "exact_match"]
    assert evaluate(one, two, *arguments) == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    rates = {
        (line["data_source"], line["system"]): line["mean"] for line in summary["scores"] if "WER" in line["metric"]
    }
    assert rates == {
        **{("all", "one"): 0, ("all", "two"): 1.5},  # a word too many is an error, in the rates of more rows as well
        **{("none", "one"): None, ("none", "two"): None},
        **{("all sources", "one"): 1, ("all sources", "two"): 1.5},
    }
    differences = {(line["data_source"], line["metric"]): line["value"] for line in summary["differences"]}
    assert ("none", "WER ↓") not in differences and differences["none", "exact match"] == 1


def test_a_system_that_has_no_score_has_no_difference(tmp_path, answers):
    """An empty answer equals an empty reference, which has no words to count errors in."""
    prompt = [{"role": "user", "content": "Repeat."}]
    row = {"data_source": "s", "prompt": prompt, "reward_model": {"ground_truth": ["", "zwei Hunde"]}}
    write_rows([row] * 8, tmp_path / "few.parquet")
    one, two = answers("one", [""] * 8), answers("two", ["zwei Katzen"] * 8)
    arguments = ["--data", tmp_path / "few.parquet", "--out", tmp_path / "out", "--metrics", "wer", "exact_match"]
    assert evaluate(one, two, *arguments) == 0
    (line,) = json.loads((tmp_path / "out/summary.json").read_text())["differences"]
    assert line["metric"] == "exact match"


def test_unequal_items_are_refused_without_common(data, answers, tmp_path, refused):
    whole, part = answers("whole", REFERENCES), answers("part", [(0, 0, "x"), (3, 0, REFERENCES[3])])
    twice = answers("twice", SAMPLED)
    out = ["--data", data, "--out", tmp_path / "out", "--metrics", "bleu"]
    assert "part has 2 answers (1 passes) for 2 of 4 rows, but every system needs 1 passes for all 4 rows" in refused(
        whole, part, *out
    )
    assert "twice has 8 answers (2 passes)" in refused(whole, twice, *out)
    assert evaluate(whole, part, twice, *out, "--common") == 0
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["notes"]["rows"], summary["notes"]["passes"]) == (2, 1)
    many = answers("many", [(row, 10**12, "x") for row in range(4)])
    assert "many has 4 answers (1000000000001 passes)" in refused(many, *out)
    assert "there is no row" in refused(answers("a", [(0, 0, "x")]), answers("b", [(1, 0, "x")]), *out, "--common")


def test_shares_of_empty_cut_off_and_failed_answers(data, tmp_path):
    lines = [{"row": n, "text": text} for n, text in enumerate(["", " ", "ein", "alte"])]
    lines[0]["finish"], lines[3]["finish"] = "failed", "length"
    file = tmp_path / "mixed.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert evaluate(file, "--data", data, "--out", tmp_path / "out", "--metrics", "bleu") == 0
    (everything,) = [
        line
        for line in json.loads((tmp_path / "out/summary.json").read_text())["answers"]
        if line["data_source"] == "all"
    ]
    assert [everything[key] for key in ("answers", "empty", "cut_off", "failed")] == [4, 0.5, 0.25, 0.25]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "line 1"),
        ("[]", "is not a JSON object with row and text"),
        ('{"row": 9, "text": "x"}', "row is 9. It must be a number from 0 to 3"),
        ('{"row": true, "text": "x"}', "row is True"),
        ('{"row": 0}', "text is None"),
        ('{"row": 0, "text": "x", "sample": -1}', "sample is -1"),
        ('{"row": 0, "text": "x", "finish": "tired"}', "finish is 'tired'"),
        ('{"row": 0, "text": "x", "references": ["y"]}', "The answers belong to other data"),
        ('{"row": 0, "text": "x"}\n{"row": 0, "text": "y"}', "line 2: row 0, sample 0 occurs twice"),
        ("", "contains no answers"),
    ],
)
def test_answers_that_are_none(line, says, data, tmp_path, refused):
    file = tmp_path / "bad.jsonl"
    file.write_text(line)
    assert says in refused(file, "--data", data, "--out", tmp_path / "out")


def test_options_that_are_refused(data, answers, tmp_path, refused):
    good = answers("good", REFERENCES)
    rest = ["--data", data, "--out", tmp_path / "out"]
    for arguments, says in (
        ([*rest], "there is nothing to evaluate"),
        ([good], "--data is missing"),
        ([good, good, *rest], "two systems are called good"),
        ([good, *rest, "--against", "x"], "--against x: there is no such system. Choose one of good"),
        ([good, *rest, "--metrics", "bleurt"], "--metrics bleurt: there is no such metric. Choose from bleu"),
        (
            [good, *rest, "--metrics", "bertscore"],
            "--metrics bertscore: it needs a model. Give --bertscore roberta-large@17",
        ),
        ([good, *rest, "--bertscore", "roberta-large"], "write MODEL@LAYER"),
        ([good, *rest, "--tokenize", "german"], "tokenize=german: sacrebleu has no such tokeniser"),
        ([good, *rest, "--passes", "0"], "--passes 0: this value is out of range"),
        ([good, *rest, "--temperature", "0"], "--temperature 0.0: this value is out of range"),
        ([good, *rest, "--greedy", "--top-k", "5"], "--greedy does not sample"),
        ([good, *rest, "--paper", "--greedy"], "--paper samples as published"),
        ([good, *rest, "--paper", "--max-tokens", "20"], "--paper samples as published"),
        ([good, *rest, "--vllm", "eager"], "write ARGUMENT=VALUE"),
        ([good, *rest, "--vllm", "dtype=["], "the value cannot be read"),
        ([good, *rest, "--on", data], "Give both"),
        ([tmp_path / "none.jsonl", *rest], "no such file of answers"),
        ([tmp_path / "none", *rest], "is neither a folder nor a hub name"),
        ([tmp_path, *rest], "contains no adapter, model or checkpoint"),
        ([good, "--data", data, "--out", good], "good.jsonl cannot be written to (File exists). Choose another folder"),
    ):
        assert says in refused(*arguments), arguments
