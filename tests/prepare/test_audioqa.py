"""Questions with choices, in small copies of the layouts in which they are published."""

import io
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from tests.helpers import corpora
from tests.helpers.corpora import everything, prepare, prompt, rejected, report, rows
from verl_leaf.data.parquet import RowFile
from verl_leaf.prepare.audioqa import _split

CHOICES = ["motorboat", "Yacht consignment", "Sailboat set sail", "Consignment car"]


def embedded(number: int) -> dict:
    data = io.BytesIO()
    soundfile.write(data, corpora.tone(300 + number, 0.2), corpora.RATE, format="WAV")
    return {"bytes": data.getvalue(), "path": None}


def avqa(folder) -> None:
    """Clips are named as VGGSound's are: with seconds that have leading zeros, or none."""
    table = []
    for number in range(4):
        corpora.write(folder / f"wav/-clip{number}_{30 + number}.wav", corpora.tone(300 + number, 0.2))
        table.append(
            {
                "id": 183 + number,
                "video_name": f"-clip{number}_0000{30 + number}",
                "video_id": 341,
                "question_text": "What happened in the video?",
                "multi_choice": CHOICES,
                "answer": number,
                "question_relation": ["View", "Sound", "Both", "Both"][number],
                "question_type": "Happening",
            }
        )
    table[3]["audio_path"] = "wav/-clip3_33.wav"  # which R1-AQA adds
    (folder / "train_qa.json").write_text(json.dumps(table[:3]))
    (folder / "val_qa.json").write_text(
        json.dumps([table[3], table[3] | {"id": 1, "answer": 4}, table[3] | {"id": 2, "answer": "B"}])
    )
    (folder / "notes.json").write_text(json.dumps([{"made": "by hand"}]))


def avqa_hub(folder) -> None:
    question = "What is heard in the video?\nChoices:\nA. 3\nB. One\nC. 4\nD. 2"
    table = [{"audio": embedded(0), "question": question, "answer": "B. One"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), folder / "train-00000-of-00001.parquet")


def audiomcq(folder) -> None:
    lines = []
    for number in range(3):
        corpora.write(folder / f"AudioCaps/{number}.wav", corpora.tone(300 + number, 0.2))
        row = {
            "source_dataset": "AudioCaps",
            "id": str(number),
            "question_type": "sound",
            "audio_path": f"AudioCaps/{number}.wav",
        }
        row |= {
            "question": f"Question {number}?",
            "answer": "Water splashing",
            "choices": ["Rain", "Water splashing", "Wind", "Fire"],
        }
        lines.append(json.dumps(row))
    (folder / "data.jsonl").write_text("\n".join(lines))


MMAU = {
    "dataset": "AudioSet",
    "task": "sound",
    "split": "test-mini",
    "category": "Reasoning",
    "sub-category": "Source",
    "difficulty": "medium",
}


def mmau(folder) -> None:
    corpora.write(folder / "test-mini-audios/x.wav", corpora.tone(300, 0.2))
    row = {
        "id": "x",
        "audio_id": "./test-mini-audios/x.wav",
        "question": "Who speaks?",
        "choices": ["Man", "Woman", "Child"],
    }
    withheld = row | {"id": "y"} | MMAU
    (folder / "mmau-test-mini.json").write_text(
        json.dumps([row | {"answer": "Woman"} | MMAU, withheld | {"answer": ""}])
    )


def mmau_hub(folder) -> None:
    attributes = MMAU | {"id": "x", "category": ["Reasoning"]}
    row = {
        "context": embedded(0),
        "instruction": "Who speaks?",
        "choices": ["(A) Man", "(B) Woman", "(C) Child"],
        "answer": "(B) Woman",
    }
    table = pyarrow.Table.from_pylist([row | {"other_attributes": json.dumps(attributes)}])
    pyarrow.parquet.write_table(table, folder / "test_mini.parquet")


def made(make, tmp_path, *arguments) -> dict[str, dict]:
    folder, out = tmp_path / "data", tmp_path / "out"
    folder.mkdir()
    make(folder)
    assert prepare("audioqa", folder, "--out", out, *arguments) == 0
    content = report(out)
    for row in everything(out).values():
        letter, text = row["reward_model"]["ground_truth"]
        choices = row["extra_info"]["choices"]
        assert choices["ABCDEFGH".index(letter)] == text
        assert all(f"\n{mark}) {choice}\n" in prompt(row) for mark, choice in zip("ABCDEFGH", choices, strict=False))
    assert sum(content["right_letters"]["written"].values()) == pytest.approx(1)
    return everything(out)


@pytest.mark.parametrize(
    ("cell", "file", "split"),
    [
        ("", "train_qa.json", "train"),
        ("", "mmau-test-mini.json", "test"),
        ("", "testmini.jsonl", "test"),
        ("", "my.validation-00000-of-00001.parquet", "validation"),
        ("dev", "train.json", "validation"),
        ("", "devices.jsonl", ""),
        ("", "values.csv", ""),
        ("validated", "testimonies.csv", ""),
    ],
)
def test_a_split_is_a_word_in_a_name(cell, file, split):
    assert _split(cell, Path(file)) == split


def test_avqa(tmp_path, capsys):
    found = made(avqa, tmp_path)
    assert [found[str(183 + n)]["reward_model"]["ground_truth"][1] for n in range(4)] == CHOICES
    assert [row["extra_info"]["category"] for row in found.values()] == ["View", "Sound", "Both", "Both"]
    assert [row["extra_info"]["split"] for row in found.values()] == ["train"] * 3 + ["validation"]
    assert [row["audios"][0]["path"].split("/")[-1] for row in found.values()] == [
        f"-clip{n}_{30 + n}.wav" for n in range(4)
    ]
    assert all(sorted(row["extra_info"]["choices"]) == sorted(CHOICES) for row in found.values())
    assert "What happened in the audio?\nA) " in prompt(found["183"]) and "<think>" not in prompt(found["183"])
    assert found["183"]["data_source"] == "avqa" and found["183"]["extra_info"]["record"] is None
    reasons = rejected(tmp_path / "out")
    assert reasons["1"] == "the answer 4 is not the index of a choice" and "'B'" in reasons["2"]
    printed = " ".join(capsys.readouterr().out.split())
    assert "notes.json is not a table of multiple-choice questions" in printed
    assert "correct answers as published: A 25.0 %, B 25.0 %, C 25.0 %, D 25.0 %. Always naming one letter" in printed
    assert "correct answers as written: " in printed and "chance is 25.0 % (chi-square p = " in printed


def test_avqa_as_the_hub_has_it(tmp_path):
    (row,) = made(avqa_hub, tmp_path).values()
    assert row["reward_model"]["ground_truth"][1] == "One" and sorted(row["extra_info"]["choices"]) == [
        "2",
        "3",
        "4",
        "One",
    ]
    assert prompt(row).startswith("<audio>\nWhat is heard in the audio?\nA) ") and row["audios"][0]["path"].endswith(
        ".audio"
    )


def test_audiomcq_with_thinking(tmp_path):
    found = made(audiomcq, tmp_path, "--thinking", "--held-out", "0")
    assert [row["extra_info"]["category"] for row in found.values()] == ["sound"] * 3
    assert {row["data_source"] for row in found.values()} == {"audiomcq"}
    assert "between <think> and </think>" in prompt(found["0"])


def test_mmau(tmp_path):
    (row,) = made(mmau, tmp_path).values()
    info = row["extra_info"]
    assert (info["category"], info["difficulty"], info["split"], row["data_source"]) == (
        "sound",
        "medium",
        "test",
        "mmau",
    )
    record = json.loads(info["record"])
    assert record["audio_id"] == "./test-mini-audios/x.wav" and record["choices"] == ["Man", "Woman", "Child"]
    assert rejected(tmp_path / "out") == {"y": "it has no answer"}


def test_mmau_as_the_hub_has_it(tmp_path):
    (row,) = made(mmau_hub, tmp_path).values()
    info, record = row["extra_info"], json.loads(row["extra_info"]["record"])
    assert info["id"] == "x" and sorted(info["choices"]) == ["Child", "Man", "Woman"]
    assert (record["answer"], record["choices"][0], record["task"]) == ("(B) Woman", "(A) Man", "sound")
    assert row["reward_model"]["ground_truth"][1] == "Woman" and info["split"] == "test"


def test_a_table_of_ones_own(tmp_path):
    def make(folder) -> None:
        corpora.write(folder / "0.wav", corpora.tone(300, 0.2))
        lines = ["clip;ask;options;say;level"]
        for choices, answer in (
            ('["ja", "nein"]', "b"),
            ('["ja", "nein"]', "ja"),
            ('["ja"]', "ja"),
            ("ja", "ja"),
            (json.dumps([f"{n} mal" for n in range(27)]), "3 mal"),
            ('["ja", "Ja."]', "ja"),
        ):
            quoted = '"' + choices.replace('"', '""') + '"'
            lines.append(f"0.wav;Was?;{quoted};{answer};hard")
        lines += [
            '0.wav;Was?;"[""ja"", ""nein""]";vielleicht;hard',
            '1.wav;Was?;"[""ja"", ""nein""]";ja;hard',
            '0.wav;;"[""a1"", ""b1""]";a1;x',
        ]
        (folder / "mine.csv").write_text("\n".join(lines))

    columns = {"audio": "clip", "question": "ask", "choices": "options", "answer": "say", "difficulty": "level"}
    arguments = [text for role, name in columns.items() for text in (f"--{role}-column", name)]
    found = made(make, tmp_path, *arguments, "--name", "mine", "--held-out", "0")
    assert [row["reward_model"]["ground_truth"][1] for row in found.values()] == ["nein", "ja"]
    assert {row["extra_info"]["difficulty"] for row in found.values()} == {"hard"}
    reasons = list(rejected(tmp_path / "out").values())
    assert reasons[:3] == [f"there are {count} choices. There must be 2 to 26" for count in (1, 0, 27)]
    assert "equal to another one" in reasons[3] and "names none of the choices" in reasons[4]
    assert "1.wav: no such file below" in reasons[5] and reasons[6] == "it has no question"


def test_a_right_choice_may_be_a_single_character(tmp_path):
    """It is left out only if both its text and its letter could name another choice."""
    alternatives = [["1", "2", "3", "4"], ["是", "不是"], ["C", "G", "E"], *([["A", "B"]] * 8)]

    def make(folder) -> None:
        corpora.write(folder / "0.wav", corpora.tone(300, 0.2))
        row = {"audio": "0.wav", "question": "?"}
        table = [row | {"id": f"q{n}", "choices": texts, "answer": texts[0]} for n, texts in enumerate(alternatives)]
        (folder / "mine.jsonl").write_text("\n".join(map(json.dumps, table)))

    found = made(make, tmp_path, "--held-out", "0")
    assert [row["reward_model"]["ground_truth"][1] for row in found.values()][:3] == ["1", "是", "C"]
    left = [*found.values()][3:]
    assert {tuple(row["extra_info"]["choices"]) for row in left} == {("A", "B")} and len(left) < 8
    assert {*rejected(tmp_path / "out").values()} == {"the reference ['B', 'A'] names none of the choices ['B', 'A']"}


def test_the_order_is_the_ids_and_the_seeds_alone(tmp_path):
    """Published in another order, the choices are written in the same one; another seed orders them otherwise."""
    orders = []
    for name, turn, seed in (("a", 0, "0"), ("b", 2, "0"), ("c", 0, "1")):
        folder = tmp_path / name
        folder.mkdir()
        corpora.write(folder / "0.wav", corpora.tone(300, 0.2))
        table = [
            {
                "audio": "0.wav",
                "question": f"{n}?",
                "id": f"q{n}",
                "choices": CHOICES[turn:] + CHOICES[:turn],
                "answer": CHOICES[n % 4],
            }
            for n in range(40)
        ]
        (folder / "train.jsonl").write_text("\n".join(map(json.dumps, table)))
        assert prepare("audioqa", folder, "--out", folder / "out", "--seed", seed) == 0
        orders.append([row["extra_info"]["choices"] for row in rows(folder / "out", "train")])
    assert orders[0] == orders[1] != orders[2] and len({tuple(order) for order in orders[0]}) > 10
    assert len(RowFile(tmp_path / "a/out/train.parquet")) == 40


@pytest.mark.parametrize(
    "content, arguments, says",
    [
        ('{"audio": "0.wav"}', [], "no table (.csv, "),
        ("", [], "contains no rows"),
        (
            '{"audio": "0.wav", "question": "?", "choices": ["x1", "y1"], "answer": "x1"}',
            ["--prompt", "{question}"],
            "contains no {choices}",
        ),
        (
            '{"audio": "0.wav", "question": "?", "choices": ["x1", "y1"], "answer": "x1"}',
            ["--held-out", "0.6"],
            "--held-out 0.6",
        ),
        (
            '{"audio": "0.wav", "question": "<audio>?", "choices": ["x1", "y1"], "answer": "x1"}',
            [],
            "a text contains <audio>",
        ),
    ],
)
def test_what_is_refused(content, arguments, says, tmp_path, capsys):
    (tmp_path / "mine.jsonl").write_text(content)
    corpora.write(tmp_path / "0.wav", corpora.tone(300, 0.2))
    assert prepare("audioqa", tmp_path / "mine.jsonl", "--out", tmp_path / "out", *arguments) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1
