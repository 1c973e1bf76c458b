"""Tables of one's own, in the encodings and dialects that programs and people write."""

import base64
import csv
import io
import json

import pyarrow
import pyarrow.parquet
import pytest

from tests.helpers import corpora
from tests.helpers.corpora import around, audio, everything, pitch, prepare, prompt, rejected, report, rows
from verl_leaf.cli import main

HEADER = ["audio", "question", "answer"]
ROWS = [
    ["0.wav", "Wer spricht?", "Frau Müller"],
    ["1.wav", "Wie viele?", "Zwei, drei"],
    ["2.wav", "Warum?", 'Er rief "ja".'],
]


@pytest.fixture
def clips(tmp_path):
    for number in range(4):
        corpora.write(tmp_path / f"{number}.wav", corpora.tone(300 + 10 * number, 0.2))
    return tmp_path


def read(folder, name: str, content: bytes | str, *arguments) -> dict[str, list[str]]:
    """What ``prepare`` makes of a table: the answers by the name of the audio."""
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    out = folder / f"out_{name}"
    assert prepare("manifest", folder / name, "--out", out, "--held-out", "0", *arguments) == 0
    report(out)
    written = everything(out).values()
    return {row["audios"][0]["path"].split("/")[-1]: row["reward_model"]["ground_truth"] for row in written}


def delimited(delimiter: str, newline: str = "\r\n", quoting=csv.QUOTE_MINIMAL, header=HEADER, table=ROWS) -> str:
    lines = io.StringIO()
    csv.writer(lines, delimiter=delimiter, lineterminator=newline, quoting=quoting).writerows([header, *table])
    return lines.getvalue()


EXPECTED = {name: [answer] for name, _, answer in ROWS}
DIALECTS = {
    "utf8.csv": delimited(","),
    "excel_utf8.csv": delimited(";").encode("utf-8-sig"),
    "excel_unicode.txt": delimited("\t").encode("utf-16"),
    "powershell.csv": delimited(",", quoting=csv.QUOTE_ALL).encode("utf-16-le").join([b"\xff\xfe", b""]),
    "big_endian.csv": b"\xfe\xff" + delimited(",").encode("utf-16-be"),
    "utf32.csv": delimited(",").encode("utf-32"),
    "utf32_be.csv": b"\0\0\xfe\xff" + delimited(",").encode("utf-32-be"),
    "sep.csv": "sep=;\r\n" + delimited(";"),
    "quoted_sep.csv": '"sep=|"\n\n' + delimited("|", "\n"),
    "mac.csv": delimited(",", "\r"),
    "bar.csv": delimited("|", "\n"),
    "pandas.tsv": delimited("\t", "\n"),
    "UPPER.CSV": delimited(","),
    "spaces.csv": '\n audio , question,"answer "\n'
    '0.wav, Wer spricht?, Frau Müller\n 1.wav , Wie viele?, "Zwei, drei"\n2.wav,Warum?,Er rief "ja".\n\n   \n\n',
    "index.csv": delimited(",", header=["", *HEADER], table=[[n, *row] for n, row in enumerate(ROWS)]),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_text_tables(clips, name):
    assert read(clips, name, DIALECTS[name]) == EXPECTED


OBJECTS = [dict(zip(HEADER, row, strict=True)) for row in ROWS]
LINES = [json.dumps(entry, ensure_ascii=False) for entry in OBJECTS]
JSONS = {
    "lines.jsonl": "\n".join(LINES),
    "crlf.ndjson": "\r\n".join(LINES) + "\r\n",
    "mark.jsonl": ("\n\n" + "\n \n".join(LINES) + "\n\n").encode("utf-8-sig"),
    "powershell.JSONL": "\r\n".join(LINES).encode("utf-16"),
    "array.json": json.dumps(OBJECTS, indent=2),
    "array.jsonl": "\ufeff \n" + json.dumps(OBJECTS),
}


@pytest.mark.parametrize("name", JSONS)
def test_json_tables(clips, name):
    assert read(clips, name, JSONS[name]) == EXPECTED


def test_a_line_ends_at_a_newline_only(clips):
    answer = "eins\u2028zwei\u0085drei\x0b\x0c\x1c"
    table = [{"audio": "0.wav", "question": "Wie?", "answer": answer + "."}]
    assert read(clips, "lines.jsonl", json.dumps(table[0], ensure_ascii=False)) == {"0.wav": [answer + "."]}
    assert read(clips, "lines.csv", delimited(",", table=[table[0].values()])) == {"0.wav": [answer + "."]}


def test_a_text_may_be_long_and_run_over_lines(clips):
    answer = "Er sagte: ja,\n\tund, ging" + 200_000 * "y"
    limit = csv.field_size_limit()
    assert read(clips, "long.csv", delimited(",", table=[["0.wav", "Was?", answer]])) == {"0.wav": [answer]}
    assert csv.field_size_limit() == limit == 2**17, "the limit of other readers of this process is as it was"


def test_rows_that_cannot_be_used_are_named(clips):
    lines = [
        "audio,question,answer,split",
        "0.wav,Was?,Ja, genau,train",
        "0.wav,Was?",
        ",,,",
        "0.wav,Was?,,",
        " ,Was?,Ja,",
        "0.wav,,Ja,",
        "0.wav,Was?,Ja,dev",
        "0.wav,Was?,\"['a', 'b']\",",
        '0.wav,Was?,"[""Ja"", """"]",',
        '0.wav,Was?,"[]",',
        "9.wav,Was?,Ja,",
        "0.wav,Was?,Ja, train ",
        "0.wav,Was?,Ja,train",
        "0.wav,Was?,[lacht] Ja,",
    ]
    assert read(clips, "mine.csv", "\n".join(lines)) == {"0.wav": ["[lacht] Ja"]}
    out = clips / "out_mine.csv"
    assert [row["reward_model"]["ground_truth"] for row in rows(out, "train")] == [["Ja"], ["[lacht] Ja"]]
    entries = [json.loads(line) for line in (out / "rejected.jsonl").read_text().strip().split("\n")]
    reasons = {entry["source"]: entry["reason"] for entry in entries}
    assert list(reasons) == [f"mine.csv, line {number}" for number in (2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 14, 12)]
    assert [*reasons.values()][:-1] == [
        "there are 5 fields, but the header has 4. A text that contains ',' needs quotation marks",
        "there are 2 fields, but the header has 4. A text that contains ',' needs quotation marks",
        "it is empty",
        "it has no answer",
        "it has no audio",
        "it has no question",
        "split 'dev' is not one of train, validation, test",
        'answer looks like a list but is not valid JSON. Write ["a", "b"]',
        "answer 1 of 2 is empty",
        "it has no answer",
        "it is a duplicate of mine.csv, line 13",
    ]
    assert "9.wav: no such file" in reasons["mine.csv, line 12"]


@pytest.mark.parametrize(
    "lines, line",
    [
        (['0.wav,Was?,"Er sagte', "1.wav,Was?,Nein"], "2: unexpected end of data"),
        (['0.wav,Was?,"Er sagte', '1.wav,Was?,"Nein"'], "2: ',' expected after '\"'"),
        (["0.wav,Was?,Nein", '1.wav,Was?,"Ja" sagte er'], "3: ',' expected after '\"'"),
        (["0.wav,Was?,Nein", '1.wav,Was?,"Er sagte', '2.wav,Was?,Ja"'], "3: a text in quotation marks begins here"),
        (
            ['0.wav,Was?,"Er sagte', '1.wav,Was?,Ja",Nein,'],
            "2: there are 5 fields, but the header has 3, and a text",
        ),
        (["0.wav,Was?,Nein", "1.wav,Was?,J\0a"], "3: there is a NUL character"),
    ],
)
def test_quotation_marks_that_swallow_rows(clips, capsys, lines, line):
    (clips / "mine.csv").write_text("\n".join(["audio,question,answer", *lines, "3.wav,Was?,Doch"]))
    assert prepare("manifest", clips / "mine.csv", "--out", clips / "out") == 2
    assert f"mine.csv, line {line}" in (shown := capsys.readouterr().err) and shown.count("\n") == 1
    assert not (clips / "out").exists()


def test_a_quotation_mark_that_swallows_the_audio_of_the_next_row(clips, capsys):
    (clips / "mine.csv").write_text('question,answer,audio\nWas?,"Er sagte,0.wav\nWas?,Nein",1.wav\n')
    assert prepare("manifest", clips / "mine.csv", "--out", clips / "out") == 2
    assert "mine.csv, line 2: a text in quotation marks begins here and continues to '0.wav'" in capsys.readouterr().err


def test_values_of_json(clips):
    changes = [
        {"answer": 5},
        {"answer": 0.25},
        {"answer": ["ja", 7]},
        {"answer": None},
        {"answer": float("nan")},
        {"answer": float("inf")},
        {"answer": True},
        {"answer": ["ja", None]},
        {"answer": {"text": "ja"}},
        {"answer": "\ud800"},
        {"question": ["Was?"]},
        {"audio": 7},
        {"audio": ["0.wav", None], "question": "<audio><audio>Was?"},
        {"audio": {"path": "1.wav", "bytes": None}},
        {"audio": {"array": [0.0]}},
        {"audio": "a\0b.wav"},
        {"split": None, "id": "mine"},
        {"split": "", "id": 16.0},
        {"id": ["a"]},
        {"question": "Was <audio>, <audio>?"},
    ]
    lines = [json.dumps({"audio": "0.wav", "question": f"{n}?", "answer": "ja"} | c) for n, c in enumerate(changes)]
    lines += ["null", "[1]", '"text"', json.dumps({"question": "Was?"})]
    read(clips, "mine.jsonl", "\n".join(lines))
    out = clips / "out_mine.jsonl"
    found = {id: row["reward_model"]["ground_truth"] for id, row in everything(out).items()}
    assert found == {
        "0": ["5"],
        "1": ["0.25"],
        "2": ["ja", "7"],
        "5": ["inf"],
        "13": ["ja"],
        "mine": ["ja"],
        "16.0": ["ja"],
    }
    reasons = rejected(out)
    assert reasons.pop("3") == reasons.pop("4") == "it has no answer"
    for id, kind in (("6", "bool"), ("8", "dict")):
        assert reasons.pop(id) == f"the answer is of the type {kind}, not a text or a number"
    assert reasons.pop("7") == "answer 1 of 2 is empty"
    assert reasons.pop("9") == "the answer contains half a surrogate pair, which is not a character"
    assert reasons.pop("10") == "the question is of the type list, not a text or a number"
    assert reasons.pop("18") == "the id is of the type list, not a text or a number"
    for id, kind in (("11", "int"), ("12", "NoneType"), ("14", "NoneType")):
        assert reasons.pop(id) == f"an audio is of the type {kind}, not a path or, in a parquet file, bytes"
    assert "no such file" in reasons.pop("15")
    assert reasons.pop("19") == "the question must contain <audio> once for each of the 1 audio(s)"
    assert [reasons.pop(str(number)) for number in range(20, 23)] == [
        "it is not an object but 'None'",
        "it is not an object but '[1]'",
        "it is not an object but 'text'",
    ]
    assert reasons.pop("23") == "it has no audio" and not reasons


def write_clips(clips, kind: str, file) -> list[bytes]:
    """A parquet file whose audio is inside, as the hub has it, as plain bytes, or in a list."""
    data = [(clips / f"{number}.wav").read_bytes() for number in range(4)]
    audios = [{"bytes": content, "path": f"{number}.WAV"} for number, content in enumerate(data)]
    audios[3] = {"bytes": None, "path": "3.wav"}
    column = {"struct": audios, "bytes": data, "list": [[entry] for entry in audios]}[kind]
    table = pyarrow.table({"speech": column, "question": ["Was?"] * 4, "answer": ["a", "b", "c", "d"], "id": [*"wxyz"]})
    pyarrow.parquet.write_table(table, file, row_group_size=3)
    return data


@pytest.mark.parametrize("kind", ["struct", "bytes", "list"])
@pytest.mark.parametrize("embed", [True, False])
def test_audio_inside_a_parquet_file(clips, kind, embed):
    data = write_clips(clips, kind, clips / "mine.parquet")
    out = clips / "out"
    arguments = ["--audio-column", "speech", *(["--embed"] if embed else [])]
    assert prepare("manifest", clips / "mine.parquet", "--out", out, "--held-out", "0", *arguments) == 0
    found = everything(out)
    assert [pitch(audio(found[id], out)) for id in "wxyz"] == pytest.approx([300, 310, 320, 330], abs=3)
    assert not (out / "rejected.jsonl").read_text()
    if embed:
        assert [found[id]["audios"][0] for id in "wxyz"] == [{"bytes": content, "path": None} for content in data]
    else:
        suffix = ".audio" if kind == "bytes" else ".WAV"
        assert found["x"]["audios"] == [{"bytes": None, "path": f"audio/train-0000001-0{suffix}"}]
        assert (out / found["x"]["audios"][0]["path"]).read_bytes() == data[1]


def test_uris_and_what_a_run_would_refuse(clips):
    text = base64.b64encode((clips / "1.wav").read_bytes()).decode()
    audios = [f"file://{clips}/0.wav", f"data:audio/wav;base64,{text}", text, "https://host/2.wav", f"{text}*", "2.wav"]
    questions = ["Was?"] * 5 + ["Was ist ein <image>?"]
    lines = [
        json.dumps({"id": id, "audio": name, "question": question, "answer": "x"})
        for id, name, question in zip("abcdef", audios, questions, strict=True)
    ]
    (clips / "mine.jsonl").write_text("\n".join(lines))
    for embed in ([], ["--embed"]):
        out = clips / f"out{len(embed)}"
        assert prepare("manifest", clips / "mine.jsonl", "--out", out, "--held-out", "0", *embed) == 0
        found, left_out = everything(out), rejected(out)
        assert [pitch(audio(found[id], out)) for id in "abc"] == pytest.approx([300, 310, 310], abs=3)
        assert "is a URL, which is not fetched" in left_out["d"] and "no such file" in left_out["e"]
        assert "the prompt contains <image>" in left_out["f"] and max(map(len, left_out.values())) < 500


def test_clips_in_which_there_is_nothing_to_hear_are_counted(clips, capsys):
    corpora.write(clips / "1.wav", 0 * corpora.tone(300, 0.2))
    assert len(read(clips, "mine.csv", delimited(","))) == 3
    assert report(clips / "out_mine.csv")["rows_with_nothing_to_hear"] == 1
    assert "1 row(s) have a clip in which nothing can be heard" in capsys.readouterr().out


def test_bytes_that_are_no_audio_stay_out_of_the_reasons(clips):
    audios = [{"bytes": b"SECRET" * 1000, "path": "a.wav"}, {"bytes": (clips / "0.wav").read_bytes(), "path": None}]
    table = pyarrow.table({"audio": audios, "question": ["Was?"] * 2, "answer": [b"SECRET", b"x"], "id": ["a", "b"]})
    pyarrow.parquet.write_table(table, clips / "bytes.parquet")
    assert prepare("manifest", clips / "bytes.parquet", "--out", clips / "bytes", "--held-out", "0") == 2
    pyarrow.parquet.write_table(table.set_column(2, "answer", [["x", "y"]]), clips / "mine.parquet")
    assert prepare("manifest", clips / "mine.parquet", "--out", clips / "out", "--held-out", "0") == 0
    assert set(everything(clips / "out")) == {"b"}
    assert "mine.parquet, row 0: " in rejected(clips / "out")["a"]
    assert not [f for f in (clips / "out", clips / "bytes") if "SECRET" in (f / "rejected.jsonl").read_text()]


def test_parquet_types_of_other_programs(clips):
    columns = {
        "audio": pyarrow.array(["0.wav", "1.wav", "2.wav"], pyarrow.large_string()),
        "question": pyarrow.array(["Was?"] * 3).dictionary_encode(),
        "answer": pyarrow.array([["a"], ["b", "c"], None], pyarrow.large_list(pyarrow.large_string())),
        "id": pyarrow.array([1, 2, 3], pyarrow.uint8()),
        "split": pyarrow.nulls(3),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), clips / "mine.parquet")
    out = clips / "out"
    assert prepare("manifest", clips / "mine.parquet", "--out", out, "--held-out", "0") == 0
    assert {id: row["reward_model"]["ground_truth"] for id, row in everything(out).items()} == {
        "1": ["a"],
        "2": ["b", "c"],
    }
    assert rejected(out) == {"3": "it has no answer"}


def test_ids_of_several_rows_are_kept_and_told(clips, capsys):
    table = [
        ["0.wav", "Was?", "a", "x"],
        ["0.wav", "Wer?", "b", "x"],
        ["0.wav", "Wer?", "b", "y"],
        ["0.wav", "Wer?", "b", "y"],
    ]
    text = delimited(",", header=[*HEADER, "id"], table=table)
    read(clips, "mine.csv", text)
    assert [row["extra_info"]["id"] for row in rows(clips / "out_mine.csv", "train")] == ["x", "x", "y"]
    assert rejected(clips / "out_mine.csv") == {"y": "it is a duplicate of mine.csv, line 4"}
    assert report(clips / "out_mine.csv")["ids_of_several_rows"] == 1
    assert "1 id(s) occur in several rows; the first is 'x'" in capsys.readouterr().out


@pytest.mark.parametrize("arguments, held_out", [([], 0.1), (["--held-out", "0.3"], 0.3)])
def test_held_out_shares(clips, arguments, held_out):
    splits = {}
    for threshold, names in ((held_out, ("test", "validation")), (2 * held_out, ("validation", "train"))):
        splits |= dict(zip(around(threshold, "clip {}.wav".format), names, strict=True))
    for name in splits:
        (clips / name).symlink_to(clips / "0.wav")
    table = [[f"{name} {ask}", name, ask, "x"] for name in splits for ask in ("Was?", "Wo?")]
    (clips / "mine.csv").write_text(delimited(",", header=["id", *HEADER], table=table))
    assert prepare("manifest", clips / "mine.csv", "--out", clips / "out", *arguments) == 0
    found = {id: row["extra_info"]["split"] for id, row in everything(clips / "out").items()}
    assert found == {f"{name} {ask}": split for name, split in splits.items() for ask in ("Was?", "Wo?")}


def test_a_split_without_rows_is_named(clips, capsys):
    (clips / "mine.csv").write_text(delimited(",", header=HEADER, table=[["0.wav", "Was?", "x"]]))
    assert prepare("manifest", clips / "mine.csv", "--out", clips / "out", "--held-out", "0.001") == 0
    printed = capsys.readouterr().out
    assert "No row is for validation." in printed and "No row is for test." in printed


@pytest.fixture
def manifest(tmp_path):
    """Six clips, one of them no audio, and a table of them as a function of its kind."""
    for number in range(6):
        corpora.write(tmp_path / f"clips/{number}.wav", corpora.tone(300 + 10 * number, 0.4))
    (tmp_path / "clips/4.wav").write_text("no audio")
    table = [
        {
            "clip": [f"clips/{number}.wav", "clips/0.wav"] if number == 2 else f"clips/{number}.wav",
            "ask": "Compare <audio> with <audio>." if number == 2 else f"Question {number}?",
            "say": [f"yes {number}", "no"] if number == 3 else f"yes {number}",
            "split": "test" if number == 5 else "train",
        }
        for number in range(6)
    ]

    def build(kind):
        file = tmp_path / f"mine.{kind}"
        if kind == "jsonl":
            file.write_text("\n".join(map(json.dumps, table)))
        elif kind == "csv":
            with open(file, "w", newline="") as lines:
                writer = csv.DictWriter(lines, table[0])
                writer.writeheader()
                writer.writerows(
                    {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
                    for row in table
                )
        else:
            several = [
                {
                    name: value if isinstance(value, list) or name in ("ask", "split") else [value]
                    for name, value in row.items()
                }
                for row in table
            ]
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(several), file)
        return ["manifest", file, "--audio-column", "clip", "--question-column", "ask", "--answer-column", "say"]

    return build


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_manifest(tmp_path, manifest, kind):
    out = tmp_path / "out"
    assert prepare(*manifest(kind), "--out", out) == 0
    train = rows(out, "train")
    assert [row["extra_info"]["id"] for row in train] == ["0", "1", "2", "3"]
    assert len(rows(out, "test")) == 1 and train[0]["data_source"] == "mine"
    assert [row["reward_model"]["ground_truth"] for row in train] == [["yes 0"], ["yes 1"], ["yes 2"], ["yes 3", "no"]]
    assert prompt(train[2]) == "Compare <audio> with <audio>." and len(train[2]["audios"]) == 2
    assert pitch(audio(train[2], out, 1)) == pytest.approx(300, abs=3)
    assert "clips/4.wav: it cannot be read as audio" in rejected(out)["4"]
    assert main(["data", str(out / "train.parquet")]) == 0
    assert main(["data", str(out / "train.parquet"), "--fast"]) == 0


def test_a_prompt_of_ones_own(tmp_path, manifest):
    out = tmp_path / "out"
    assert prepare(*manifest("jsonl"), "--out", out, "--prompt", "Hear <audio>, then: {question}") == 0
    assert prompt(rows(out, "train")[0]) == "Hear <audio>, then: Question 0?"
    assert prompt(rows(out, "train")[2]) == "Compare <audio> with <audio>."
    for prompt_without in ("Hear!", " ", "<audio> {question} <audio>"):
        assert prepare(*manifest("jsonl"), "--out", tmp_path / "other", "--prompt", prompt_without) == 2


def test_the_trainer_takes_what_was_prepared_and_data_says_so(tmp_path, manifest, task, capsys):
    out = tmp_path / "out"
    prepare(*manifest("jsonl"), "--out", out)
    capsys.readouterr()
    assert main(["data", str(out / "train.parquet"), "--model", str(task / "model")]) == 0
    assert main(["data", str(out / "train.parquet"), "--model", str(task / "model"), "--max-prompt-length", "20"]) == 2
    assert "train.parquet, row 0: the prompt has" in capsys.readouterr().err
    (tmp_path / "clips/1.wav").unlink()
    assert main(["data", str(out / "train.parquet")]) == 1
    assert "row 1: " in (shown := " ".join(capsys.readouterr().out.split())) and "no such file" in shown
