"""Miniature copies of the corpora, in their true layouts. Every clip is a tone; its frequency tells which it is."""

import gzip
import io
import json
from pathlib import Path

import av
import numpy as np
import pyarrow
import pyarrow.parquet
import soundfile

RATE = 16000


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
    names = [f"common_voice_en_{number}.mp3" for number in range(8)]
    for number, name in enumerate(names):
        if number != 6:
            write(root / "cv/clips" / name, tone(400, 0.6, 32000), 32000)
    lines = ["client_id\tpath\tsentence\tup_votes"]
    lines += [f'c{n}\t{name}\tSay "{n} now.\t2' for n, name in enumerate(names) if n != 7]
    (root / "cv/validated.tsv").write_text("\n".join(lines) + "\n")
    splits = ["train", "train_covost", "dev", "dev_covost", "test", "test", "train", "train"]
    lines = ["path\ttranslation\tsplit"]
    lines += [f'{name}\tSage "{n} jetzt.\t{split}' for n, (name, split) in enumerate(zip(names, splits, strict=True))]
    (root / "covost_v2.en_de.tsv").write_text("\n".join(lines) + "\n")


def conversation(question: str, answer: str) -> list[dict]:
    return [{"from": "human", "value": f"<sound>\n{question}"}, {"from": "gpt", "value": answer}]


def dailytalk(root: Path) -> None:
    for turn in range(12):
        write(root / "DailyTalk/data/0" / f"{turn}_{turn % 2}_d0.wav", tone(200 + 50 * turn, 0.25, 44100), 44100)
    write(root / "DailyTalk/data/d0001/0_0_d1.wav", tone(300, 0.5))
    question = conversation("Who speaks?", "Two people.")
    records = [
        {"id": "a", "sound": "0.wav", "duration": 3.0, "conversations": question},
        {"id": "b", "sound": "1.wav", "duration": 0.5, "conversations": repr(question)},
        {"id": "c", "sound": "7.wav", "duration": 3.0, "conversations": question},
        {"id": "d", "sound": "0.wav", "duration": 41.0, "conversations": question},
        {
            "id": "e",
            "sound": "0.wav",
            "duration": 3.0,
            "conversations": conversation("Which? Choose the correct option", "x"),
        },
        {"id": "f", "sound": "0.wav", "duration": 3.0, "conversations": conversation("Which?", "(A) One")},
        {"id": "g", "sound": "0.wav", "duration": 3.0, "conversations": "[{'from': 'human'"},
    ]
    questions = root / "questions/longaudio_xl"
    questions.mkdir(parents=True)
    (questions / "DailyTalk_LongAudio.json").write_text(json.dumps(records))


def parliament(root: Path, hub: bool) -> None:
    """Europarl-ST as m4a; VoxPopuli as the hub's parquet, or as sessions with voice-activity times."""
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
    ]
    voxpopuli = [{"id": 4, "sound": [f"{name}.wav" for name in names], "conversations": question}]
    voxpopuli.append({"id": 5, "sound": "nowhere.wav", "conversations": question})
    questions = root / "questions"
    questions.mkdir()
    (questions / "Europarl_LongAudio.json").write_text(json.dumps(europarl))
    (questions / "VoxPopuli_LongAudio.json").write_text(json.dumps(voxpopuli))
