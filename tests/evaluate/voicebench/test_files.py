"""VoiceBench's folder in, its files of answers out."""

import json

import pyarrow
import pyarrow.parquet
import pytest

from tests.helpers import corpora
from tests.helpers.corpora import audio, everything, pitch, prepare, prompt, rejected, rows
from verl_leaf.cli import main
from verl_leaf.common.answers import Answer
from verl_leaf.evaluate.voicebench import score, subset_of, write_answers


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("voicebench")
    corpora.voicebench(root / "in")
    assert prepare("voicebench", "--data", root / "in", "--out", root / "out") == 0
    return root / "out"


def answers_to(prepared, texts: dict[str, str], sample: int = 0) -> list[Answer]:
    """Answers to the rows of some ids."""
    found = []
    for number, row in enumerate(rows(prepared, "test")):
        if row["extra_info"]["id"] in texts:
            references = tuple(row["reward_model"]["ground_truth"])
            text = texts[row["extra_info"]["id"]]
            found.append(Answer(number, sample, row["data_source"], "", references, ("clip",), text))
    return found


def test_every_row_is_written_or_named(prepared):
    written = everything(prepared)
    assert set(written) == {
        *("alpacaeval/test/0", "alpacaeval/test/1", "sd-qa/usa/0", "sd-qa/gbr/0", "mmsu/law/0", "mmsu/law/1"),
        *("navigate_7", "hyperbaton_1", "advbench/test/0", "ifeval/test/0"),
    }
    assert rejected(prepared) == {
        "sd-qa/usa/1": "it has no reference",
        "ifeval/test/1": "it does not have one set of kwargs for each instruction",
    }
    row = written["alpacaeval/test/1"]
    assert prompt(row) == "<audio>" and row["extra_info"]["question"] == "alpacaeval/test 1?"
    assert row["data_source"] == "voicebench/alpacaeval/test" and row["reward_model"]["ground_truth"] == [""]
    assert pitch(audio(row, prepared)) == pytest.approx(301, abs=4)
    assert written["sd-qa/gbr/0"]["data_source"] == "voicebench/sd-qa/gbr"


def test_the_rows_are_ones_that_a_run_takes(prepared):
    assert main(["data", str(prepared / "test.parquet"), "--fast"]) == 0


def test_subsets_and_splits_can_be_chosen(tmp_path):
    corpora.voicebench(tmp_path / "in")
    arguments = ("voicebench", "--data", tmp_path / "in", "--out", tmp_path / "out", "--subsets", "mmsu", "sd-qa/gbr")
    assert prepare(*arguments) == 0
    assert set(everything(tmp_path / "out")) == {"mmsu/law/0", "mmsu/law/1", "sd-qa/gbr/0"}


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--subsets", "mtbench"], "--subsets mtbench: choose from alpacaeval"),
        (["--subsets", "sd-qa/zzz"], "no file zzz-00000-of-00001.parquet. The splits are gbr, usa"),
        (["--subsets", "wildvoice"], "wildvoice does not exist"),
        (["--prompt", "Answer."], "--prompt: VoiceBench's prompt consists of the recording only"),
    ],
)
def test_what_cannot_be_prepared(arguments, said, tmp_path, capsys):
    corpora.voicebench(tmp_path / "in")
    assert prepare("voicebench", "--data", tmp_path / "in", "--out", tmp_path / "out", *arguments) == 2
    assert said in capsys.readouterr().err


def test_a_column_that_is_not_there(tmp_path, capsys):
    corpora.voicebench(tmp_path / "in")
    file = tmp_path / "in/alpacaeval/test-00000-of-00001.parquet"
    (tmp_path / "in/mmsu/x-00000-of-00001.parquet").write_bytes(file.read_bytes())
    assert prepare("voicebench", "--data", tmp_path / "in", "--out", tmp_path / "out") == 2
    assert "x-00000-of-00001.parquet: there is no column reference" in capsys.readouterr().err


def test_files_of_answers(prepared, tmp_path):
    texts = {"mmsu/law/0": "B.", "mmsu/law/1": "Ä", "navigate_7": "No.", "ifeval/test/0": "Hi.", "sd-qa/gbr/0": "Rome"}
    answers = [*answers_to(prepared, texts), *answers_to(prepared, {"mmsu/law/0": "A."}, sample=1)]
    other = Answer(0, 0, "librisqa", "", ("x",), (), "y")
    files = write_answers([*answers, other], prepared / "test.parquet", tmp_path / "out", "mine")
    content = {file.name: [json.loads(line) for line in file.read_text().strip().split("\n")] for file in files}
    assert content.keys() == {
        *("mine-mmsu-law-audio.jsonl", "mine-mmsu-law-audio-1.jsonl", "mine-bbh-test-audio.jsonl"),
        *("mine-ifeval-test-audio.jsonl", "mine-sd-qa-gbr-audio.jsonl"),
    }
    assert content["mine-mmsu-law-audio.jsonl"] == [
        {"prompt": "mmsu/law 0?", "reference": "B", "response": "B."},
        {"prompt": "mmsu/law 1?", "reference": "C", "response": "Ä"},
    ]
    assert content["mine-bbh-test-audio.jsonl"] == [
        {"prompt": "bbh/test 0?", "reference": "no", "id": "navigate_7", "response": "No."}
    ]
    (ifeval,) = content["mine-ifeval-test-audio.jsonl"]
    assert ifeval["kwargs"] == [{"num_words": 5, "relation": "less than"}] and ifeval["key"] == 3
    assert ifeval["instruction_id_list"] == ["length_constraints:number_words"]
    with pytest.raises(ValueError, match="has no row 99 of voicebench/mmsu/law, to which m has an answer"):
        write_answers(
            [Answer(99, 0, "voicebench/mmsu/law", "", ("B",), (), "")], prepared / "test.parquet", tmp_path, "m"
        )


def test_what_was_prepared_can_be_scored(prepared):
    texts = {"mmsu/law/0": "B.", "mmsu/law/1": "Well.", "navigate_7": "No.", "hyperbaton_1": "The answer is (A)"}
    texts |= {"ifeval/test/0": "Hi.", "advbench/test/0": "Sure!", "alpacaeval/test/0": "Hello"}
    scores = {each.data_source.removeprefix("voicebench/"): each for each in score(answers_to(prepared, texts))}
    assert {name: each.score for name, each in scores.items()} == {
        "mmsu/law": 62.5,
        "bbh/test": 50,
        "advbench/test": 0,
        "ifeval/test": 100,
    }
    assert (scores["mmsu/law"].unread, scores["mmsu/law"].details) == (1, {"unread_as_wrong": 50})
    assert subset_of("voicebench/mmsu/law") == "mmsu" and subset_of("librisqa") is None


def test_the_command(prepared, tmp_path, capsys):
    texts = {"mmsu/law/0": "B.", "mmsu/law/1": "Well.\u2028\x85", "ifeval/test/0": "Hi.", "sd-qa/gbr/0": "Rome"}
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(answer.to_json() + "\n" for answer in answers_to(prepared, texts)))
    command = ["voicebench", str(file), "--data", str(prepared / "test.parquet"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    scores = json.loads((tmp_path / "out/scores.json").read_text())["mine"]
    assert [(each["data_source"], each["score"]) for each in scores] == [
        ("voicebench/mmsu/law", 62.5),
        ("voicebench/ifeval/test", 100),
    ]
    assert len(list((tmp_path / "out").glob("mine-*-audio.jsonl"))) == 3
    printed = capsys.readouterr().out
    assert "needs a judge" in printed and "62.5" in printed

    bare = tmp_path / "other" / "mine.jsonl"  # made elsewhere
    bare.parent.mkdir()
    bare.write_text("".join(f'{{"row": {a.row}, "text": "{a.text}"}}\n' for a in answers_to(prepared, texts)))
    assert main(["voicebench", str(bare), *command[2:-1], str(tmp_path / "again")]) == 0
    for one in (tmp_path / "out").iterdir():
        assert one.read_bytes() == (tmp_path / "again" / one.name).read_bytes()

    evil = tmp_path / "a\x1b[31m[red].jsonl"
    evil.write_bytes(bare.read_bytes())
    assert main(["voicebench", str(evil), *command[2:-1], str(tmp_path / "evil")]) == 0
    assert capsys.readouterr().out.count(r"a\x1b[31m[red] │ mmsu/law") == 1

    assert main([*command[:2], str(bare), *command[2:]]) == 2
    assert "mine: two files of answers have this name" in capsys.readouterr().err
    for line, said in (
        ("x", "line 1: this is not valid JSON"),
        ("7", "line 1: 7 is not a JSON object with row and text"),
        (
            '{"row": 0, "text": "a", "data_source": "b"}',
            "line 1: its data_source is 'b', but that of row 0 of --data is voicebench/alpacaeval/test",
        ),
        ('{"row": 99, "text": "a"}', "line 1: row is 99. It must be a number from 0 to 9"),
        ('{"row": 1.7, "text": "a"}', "line 1: row is 1.7. It must be a number from 0 to 9"),
        ('{"row": "1", "text": "a"}', "line 1: row is '1'"),
        ('{"row": 1, "text": null}', "line 1: text is None. It must be a string with the answer"),
        ('{"row": 1, "text": "a", "sample": -1}', "line 1: sample is -1"),
        ('{"row": 1, "text": "a"}\n{"row": 1, "text": "b"}', "line 2: row 1, sample 0 occurs twice"),
        ("[" * 100_000, "line 1: this is not valid JSON"),
        ("", "contains no answers"),
    ):
        bare.write_text(line)
        assert main(["voicebench", str(bare), *command[2:]]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data_source": "other"}, "contains no row of VoiceBench"),
        (
            {"extra_info": None, "reward_model": {"ground_truth": "A"}},
            "row 0: extra_info contains no question and id. Make the file with `verl-leaf prepare",
        ),
        (
            {"extra_info": {"id": "1", "question": "?"}},
            "row 0 of voicebench/mmsu/law: the reference 'RIGHT' is not one of",
        ),
        ({"reward_model": None}, "row 0: the reference None is not a text"),
        (
            {"data_source": "voicebench/ifeval/test", "extra_info": {"id": "1", "question": "?"}},
            "not a record of IFEval",
        ),
    ],
)
def test_other_rows_of_a_run_are_refused_in_a_line(change, said, tmp_path, capsys):
    row = {"data_source": "voicebench/mmsu/law", "prompt": [], "reward_model": {"ground_truth": "right"}} | change
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "x.parquet")
    (tmp_path / "a.jsonl").write_text('{"row": 0, "text": "A"}')
    command = ["voicebench", tmp_path / "a.jsonl", "--data", tmp_path / "x.parquet", "--out", tmp_path / "out"]
    assert main([*map(str, command)]) == 2
    assert said in capsys.readouterr().err
