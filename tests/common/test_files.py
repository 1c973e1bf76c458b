"""Files and folders are complete or not there; lines end at newlines only; a file is read once for its digest."""

import json
import os
import sys
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from verl_leaf.common.files import (
    LineStore,
    file_digest,
    json_lines,
    move_folder,
    whole_file,
    whole_folder,
    write_file,
)

ODD = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\rj"  # all that str.splitlines splits at, but \n


def fill(folder: Path, name: str, replace: bool = False) -> None:
    with whole_folder(folder, replace) as new:
        (new / name).touch()


def keyed(line: dict) -> tuple[int, str]:
    return line["key"], line["text"]


def test_lines_end_at_newlines_only(tmp_path):
    file = tmp_path / "x.jsonl"
    texts = [{"text": ODD}, {"text": "b"}]
    file.write_bytes(b"".join(json.dumps(text, ensure_ascii=False).encode() + b"\r\n" for text in texts) + b"\n")
    assert list(json_lines(file)) == [(1, texts[0]), (2, texts[1])]


@pytest.mark.parametrize("line", [b"{", b'"\xff"', b"[" * 100_000])
def test_a_line_that_is_not_json_is_named(line, tmp_path):
    (tmp_path / "x.jsonl").write_bytes(b"1\n" + line)
    with pytest.raises(ValueError, match="x.jsonl, line 2: this is not valid JSON"):
        list(json_lines(tmp_path / "x.jsonl"))
    with pytest.raises(ValueError, match="none.jsonl cannot be read"):
        list(json_lines(tmp_path / "none.jsonl"))


def test_a_store_drops_a_torn_last_line_and_keeps_the_rest(tmp_path):
    file = tmp_path / "below/x.jsonl"
    store = LineStore(file, keyed, "text")
    assert not file.exists()
    for key in range(2):
        store.append(json.dumps({"key": key, "text": ODD}, ensure_ascii=False))
    whole = file.read_bytes()
    for end in range(len(whole) + 1):
        file.write_bytes(whole[:end])
        kept = whole[:end].count(b"\n")
        again = LineStore(file, keyed, "text")
        assert again.values == dict.fromkeys(range(kept), ODD)
        again.append('{"key": 7, "text": "x"}')
        assert LineStore(file, keyed, "text").values == again.values == {**dict.fromkeys(range(kept), ODD), 7: "x"}
    for damaged in ('{"key": 1}\n', '{"key": [1], "text": "x"}\n'):
        file.write_text(damaged)
        with pytest.raises(ValueError, match="x.jsonl, line 1: this is not a valid text"):
            LineStore(file, keyed, "text")


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path):
    file = tmp_path / "below/x"
    write_file(file, "Ä")
    with suppress(RuntimeError), whole_file(file) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    with whole_file(file) as temporary:
        temporary.write_text("nothing is to be written after all")
        temporary.unlink()
    assert file.read_text("utf-8") == "Ä" and list(file.parent.iterdir()) == [file]
    with whole_file(file) as temporary:
        temporary.write_text("new")
        assert file.read_text("utf-8") == "Ä"
    assert file.read_text() == "new"


def test_a_folder_appears_as_a_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "below/x"
    with whole_folder(folder) as new:
        (new / "one").touch()
        assert not folder.exists()
    mode = folder.stat().st_mode
    with suppress(RuntimeError), whole_folder(folder, replace=True) as new:
        (new / "half").touch()
        raise RuntimeError
    with suppress(RuntimeError), whole_folder(tmp_path / "other"):
        raise RuntimeError
    assert not (tmp_path / "other").exists()
    with pytest.raises(FileExistsError, match="below/x exists. Delete it, or choose another --out"):
        fill(folder, "two")
    assert [file.name for file in folder.iterdir()] == ["one"]
    fill(folder, "two", replace=True)
    assert [file.name for file in folder.iterdir()] == ["two"] and list(folder.parent.iterdir()) == [folder]
    (tmp_path / "plain").mkdir()
    assert folder.stat().st_mode == mode == (tmp_path / "plain").stat().st_mode
    move_folder(folder, tmp_path / "plain")
    assert [file.name for file in (tmp_path / "plain").iterdir()] == ["two"] and not folder.exists()


@pytest.fixture
def opened():
    """How often Python has opened each path."""
    counts: Counter[str] = Counter()
    counting = [True]

    def count(event, arguments):
        if counting and event == "open" and isinstance(arguments[0], str | os.PathLike):
            counts[os.fspath(arguments[0])] += 1

    sys.addaudithook(count)
    yield counts
    counting.clear()


def test_a_file_is_read_once_unless_it_changes(tmp_path, opened):
    file = tmp_path / "x"
    file.write_bytes(b"one")
    opened.clear()
    first = file_digest(file)
    assert file_digest(file) == first and opened[str(file)] == 1
    file.write_bytes(b"other")
    opened.clear()
    assert file_digest(file) != first and opened[str(file)] == 1
