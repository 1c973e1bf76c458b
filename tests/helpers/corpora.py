"""Miniature copies of the corpora, in their true layouts. Every clip is a tone whose frequency identifies it.

Also run ``verl-leaf prepare`` on them and read what it wrote.
"""

import bisect
import gzip
import io
import json
from pathlib import Path

import av
import numpy as np
import pyarrow
import pyarrow.parquet
import soundfile

from verl_leaf.cli import main
from verl_leaf.data.audio import load_audio
from verl_leaf.data.references import absolute_audio
from verl_leaf.prepare.corpus import fraction

RATE = 16000


def prepare(*arguments) -> int:
    return main(["prepare", *map(str, arguments), "--workers", "2"])


def rows(folder: Path, split: str) -> list[dict]:
    files = sorted(folder.glob(f"{split}*.parquet"))
    return [row for file in files for row in pyarrow.parquet.read_table(file).to_pylist()]


def everything(folder: Path) -> dict[str, dict]:
    """Return all rows by their id."""
    return {row["extra_info"]["id"]: row for split in ("train", "validation", "test") for row in rows(folder, split)}


def rejected(folder: Path) -> dict[str, str]:
    """Return the reasons of the rows left out, by id."""
    lines = (folder / "rejected.jsonl").read_text().split("\n")[:-1]
    reasons = {entry["id"]: entry["reason"] for entry in map(json.loads, lines)}
    assert len(reasons) == len(lines)
    return reasons


def report(folder: Path) -> dict:
    """Return the report, after checking that its numbers add up."""
    content = json.loads((folder / "report.json").read_text())
    written = sum(len(rows(folder, split)) for split in ("train", "validation", "test"))
    assert content["rows_written"] == written == sum(split["rows"] for split in content["splits"].values())
    assert content["rows_left_out"] == sum(content["left_out"].values())
    assert content["rows_left_out"] == len((folder / "rejected.jsonl").read_text().split("\n")) - 1
    assert content["rows_read"] == content["rows_written"] + content["rows_left_out"]
    return content


def audio(row: dict, folder: Path, number: int = 0) -> np.ndarray:
    return load_audio(absolute_audio(row["audios"][number], str(folder)), RATE)


def pitch(waveform: np.ndarray) -> float:
    return np.abs(np.fft.rfft(waveform)).argmax() * RATE / len(waveform)


def prompt(row: dict) -> str:
    return row["prompt"][0]["content"]


def tone(frequency: float, seconds: float, rate: int = RATE) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write(file: Path, waveform: np.ndarray, rate: int = RATE) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, waveform, rate)


def write_m4a(file: Path, waveform: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        for packet in (*stream.encode(frame), *stream.encode(None)):
            container.mux(packet)


def around(threshold: float, name) -> tuple[str, str]:
    """Return, of a hundred thousand names, the two whose hashes are next to a threshold: below it, and not below it."""
    names = sorted((name(number) for number in range(100_000)), key=fraction)
    place = bisect.bisect_left(names, threshold, key=fraction)
    return names[place - 1], names[place]


def librisqa(root: Path) -> None:
    for split, folder, count in (("train", "train-clean-360", 12), ("test", "test-clean", 2)):
        records = []
        for number in range(count):
            name = f"{folder}/100/121669/100-121669-{number:04d}"
            if number != 1:  # one clip is missing
                write(root / f"LibriSpeech/{name}.flac", tone(300 + number, 0.5))
            key = ("speech_path", "audio_path", "path")[number % 3]
            prefix = "LibriSpeech/" if number % 2 else ""
            records.append(
                {key: f"{prefix}{name}.wav", "question": f"What is said in {number}?", "answer": f"It is {number}."}
            )
        folder = root / "questions"
        folder.mkdir(exist_ok=True)
        (folder / f"LibriSQA-PartI-{split}.json").write_text(json.dumps(records))


def covost2(root: Path) -> None:
    """Write eight clips, of which 6 is missing and 9 empty, and a stray file; 7 and 8 are wrong in a table."""
    names = [f"common_voice_en_{number}.mp3" for number in range(10)]
    for number, name in enumerate(names):
        if number not in (6, 9):
            write(root / "cv/clips" / name, tone(400, 0.6, 32000), 32000)
    (root / "cv/clips" / names[9]).touch()
    (root / "cv/clips" / f"._{names[0]}").write_bytes(b"\0\5\x16\7")
    lines = ["client_id\tpath\tsentence\tup_votes"]
    lines += [f'c{n}\t{name}\tSay "{n} now.\t2' for n, name in enumerate(names) if n != 7]
    (root / "cv/validated.tsv").write_text("\n".join([*lines, "c7\ttoo few"]) + "\n")
    splits = ["train", "train_covost", "dev", "dev_covost", "test", "test_covost", "train", "train", "train", "train"]
    lines = ["path\ttranslation\tsplit"]
    lines += [f'{name}\tSage "{n} jetzt.\t{split}' for n, (name, split) in enumerate(zip(names, splits, strict=True))]
    lines[2] = f'{names[1]}\tein \\"alter\\" \\\tHund \\\\\ttrain_covost'
    lines[9] = f"{names[8]}\tlinks\trechts\ttrain"
    lines += [lines[1], f"{names[2]}\t \tdev", f"{names[4]}\tSage es anders.\ttest", f"{names[4]}\tSage\tother", "", ""]
    (root / "covost_v2.en_de.tsv").write_text("\n".join(lines))


def voicebench(root: Path) -> None:
    """Write two rows of some subsets in the layout of the hub's data set: parquet files that contain the audio."""
    instruction = {"num_words": 5, "relation": "less than", "keywords": None}
    subsets = {
        "alpacaeval/test": [{}, {}],
        "sd-qa/usa": [{"reference": "Paris"}, {"reference": ""}],
        "sd-qa/gbr": [{"reference": "Rome"}],
        "mmsu/law": [{"reference": "B"}, {"reference": "C"}],
        "bbh/test": [{"reference": "no", "id": "navigate_7"}, {"reference": "(B)", "id": "hyperbaton_1"}],
        "advbench/test": [{}],
        "ifeval/test": [
            {"key": 3, "instruction_id_list": ["length_constraints:number_words"], "kwargs": [instruction]},
            {"key": 4, "instruction_id_list": ["punctuation:no_comma", "startend:quotation"], "kwargs": [instruction]},
        ],
    }
    for name, records in subsets.items():
        rows = []
        for number, record in enumerate(records):
            data = io.BytesIO()
            soundfile.write(data, tone(300 + number, 0.3), RATE, format="WAV")
            spoken = {"audio": {"bytes": data.getvalue(), "path": f"{number}.wav"}, "prompt": f"{name} {number}?"}
            rows.append(spoken | record)
        file = root / f"{name}-00000-of-00001.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)


def conversation(question: str, answer: str) -> list[dict]:
    return turns(f"<sound>\n{question}", answer)


def turns(human, answer) -> list[dict]:
    return [{"from": "human", "value": human}, {"from": "gpt", "value": answer}]


def dailytalk(root: Path) -> None:
    for turn in range(12):
        write(root / "DailyTalk/data/0" / f"{turn}_{turn % 2}_d0.wav", tone(200 + 50 * turn, 0.25, 44100), 44100)
    write(root / "DailyTalk/data/d0001/0_0_d1.wav", tone(300, 0.5))
    write(root / "DailyTalk/data/2/0_0_d2.wav", tone(300, 40))
    write(root / "DailyTalk/data/3/0_0_d3.wav", tone(300, 40.1))
    write(root / "DailyTalk/data/4/0_0_d4.wav", tone(300, 0.5))
    write(root / "DailyTalk/data/4/2_0_d4.wav", tone(300, 0.5))  # turn 1 is missing
    write(root / "DailyTalk/data/5/0_0_d5.wav", tone(300, 0.5))
    (root / "DailyTalk/data/5/1_1_d5.wav").touch()
    for stray in ("._0_0_d0.wav", ".DS_Store", "Thumbs.db", "0_0_d0 (1).wav", "notes.txt", "0_0_d1.wav"):
        (root / "DailyTalk/data/0" / stray).write_bytes(b"\0\5\x16\7Mac OS X")
    said = conversation("Who speaks?", "Two people.")
    records = [
        {"id": "a", "sound": "0.wav", "duration": 3.0, "conversations": said},
        {"id": "b", "sound": "1.wav", "duration": 40.0, "conversations": repr(said)},
        {"id": "middle", "sound": "1.wav", "conversations": turns("Hear <sound> and say who speaks.", "Ann.")},
        {"id": "end", "sound": "1.wav", "duration": None, "conversations": turns("Who speaks?\n<sound>", "Ann.")},
        {"id": "nowhere", "sound": "1.wav", "duration": 0.5, "conversations": turns("Who speaks?", 5)},
        {"id": "40 s", "sound": "2.wav", "conversations": said},
        {"id": "40.1 s", "sound": "3.wav", "conversations": said},
        {"id": "c", "sound": "7.wav", "duration": 3.0, "conversations": said},
        {"id": "d", "sound": "0.wav", "duration": 40.01, "conversations": said},
        {"id": "e", "sound": "0.wav", "conversations": conversation("Which? Choose the correct option", "x")},
        {"id": "f", "sound": "0.wav", "conversations": conversation("Choose the correct answer: A or B?", "x")},
        {"id": "g", "sound": "0.wav", "conversations": conversation("Which?", "(A) One")},
        {"id": "literal", "sound": "0.wav", "conversations": "[{'from': 'human'"},
        {"id": "turns", "sound": "0.wav", "conversations": said * 2},
        {"id": "twice", "sound": "0.wav", "conversations": turns("<sound> and <sound>", "Ann.")},
        {"id": "silent", "sound": "0.wav", "conversations": turns("<sound>", "Ann.")},
        {"id": "long", "sound": "0.wav", "duration": "three", "conversations": said},
        {"id": "none", "sound": [], "conversations": said},
        {"id": "name", "sound": "\u00b2.wav", "conversations": said},
        {"id": "gap", "sound": "4.wav", "conversations": said},
        {"id": "empty", "sound": "5.wav", "conversations": said},
        {"sound": "0.wav", "conversations": said},
        {"id": "a", "sound": "0.wav", "duration": 3.0, "conversations": said},
        None,
    ]
    questions = root / "questions/longaudio_xl"
    questions.mkdir(parents=True)
    (questions / "DailyTalk_LongAudio.json").write_text(json.dumps(records))


def parliament(root: Path, hub: bool) -> None:
    """Write Europarl-ST as m4a; VoxPopuli as the hub's parquet, or as sessions with voice-activity times."""
    write_m4a(root / "europarl/en/audios/en.20080925.16.4-121.m4a", np.concatenate([tone(300, 4), tone(600, 4)]))
    session, ids = "20100210-0900-PLENARY-11", ["en_20100210-19:29:32_2", "en_20100210-19:30:00_3"]
    names = [f"{session}-{id}" for id in ids]
    if hub:
        audios = []
        for frequency in (350, 450):
            buffer = io.BytesIO()
            soundfile.write(buffer, tone(frequency, 1), RATE, format="WAV")
            audios.append({"bytes": buffer.getvalue(), "path": None})
        (root / "voxpopuli").mkdir()
        pyarrow.parquet.write_table(
            pyarrow.table({"audio_id": names, "audio": audios}), root / "voxpopuli/train-00000.parquet"
        )
    else:
        parts = [tone(350, 1), tone(900, 1), tone(350, 1), tone(450, 1)]  # 900 Hz is between the voices
        write(root / f"voxpopuli/en/2010/{session}_en.ogg", np.concatenate(parts))
        with gzip.open(root / "voxpopuli/asr_en.tsv.gz", "wt") as file:
            file.write("session_id|id_|vad\n")
            file.write(f"{session}|{ids[0]}|[(0.0, 1.0), (2.0, 3.0)]\n{session}|{ids[1]}|[(3.0, 4.0)]\n")
    question = conversation("What is debated?", "The budget.")
    europarl = [
        {"id": 1, "sound": "en.20080925.16.4-121_0.5_3.5.wav", "conversations": question},
        {
            "id": 2,
            "sound": ["en.20080925.16.4-121_0.5_1.5.wav", "en.20080925.16.4-121_4.5_7.5.wav"],
            "conversations": question,
        },
        {"id": 3, "sound": "en.19990101.1_0_1.wav", "conversations": question},
        {"id": 6, "sound": "en.20080925.16.4-121_7_9.wav", "conversations": question},  # the recording ends after 8 s
        {"id": 7, "sound": "en.20080925.16.4-121_3_3.wav", "conversations": question},
        {"id": 8, "sound": "en.20080925.wav", "conversations": question},
    ]
    voxpopuli = [{"id": 4, "sound": [f"{name}.wav" for name in names], "conversations": question}]
    voxpopuli.append({"id": 5, "sound": "nowhere.wav", "conversations": question})
    questions = root / "questions"
    questions.mkdir()
    (questions / "Europarl_LongAudio.json").write_text(json.dumps(europarl))
    (questions / "VoxPopuli_LongAudio.json").write_text(json.dumps(voxpopuli))


def fillets(root: Path, lines: dict[str, list[tuple[str, str]]], language: str = "cs") -> None:
    """Write Fish Fillets: each scene's lines as (speaker, English text); the Czech text is the English one reversed."""
    for scene, spoken in lines.items():
        text = "".join(
            f'dialogId("{scene}-{n}", "font_{speaker}", "{english}")\ndialogStr("{english[::-1]}")\n\n'
            for n, (speaker, english) in enumerate(spoken)
        )
        (root / "script" / scene).mkdir(parents=True)
        (root / "script" / scene / f"dialogs_{language}.lua").write_text(text)
        for n in range(len(spoken)):
            write(root / "sound" / scene / language / f"{scene}-{n}.ogg", tone(300 + n, 0.5))


def asterisk(root: Path) -> None:
    """Write Asterisk's prompts: 20 in English, with French for all but one, and a tone."""
    for language, first in (("en", 0), ("fr", 1)):
        folder = root / "doc" / f"asterisk-core-sounds-{language}"
        folder.mkdir(parents=True)
        lines = [f"dir/p{n}: {language} {n}." for n in range(first, 20)]
        with gzip.open(folder / f"core-sounds-{language}.txt.gz", "wt") as file:
            file.write("\n".join(["; Core Sounds", "", "beep: [a tone]", *lines]))
    for n in range(19):
        write(root / "sounds" / "dir" / f"p{n}.wav", tone(300 + n, 0.3))
