"""The corpus on disk: wav files, and the parquet files that verl reads."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow
import pyarrow.parquet

from examples.spoken_german import phrases
from examples.spoken_german.synthesis import Clip, write_clips

ACCENTS = ("en-us", "en-us-nyc", "en", "en-gb-x-rp", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-gb-scotland", "en-029")
TRAIN_VARIANTS = ("m1", "m2", "m4", "m5", "m6", "m8", "f1", "f3", "f4", "f5")
VAL_VARIANTS = ("m3", "m7", "f2")
TRAIN_ROWS = 512
VAL_ROWS = 64


@dataclass(frozen=True)
class Utterance:
    """A sentence, its recording, and the exercises about it."""

    sentence: phrases.Sentence
    clip: Clip
    exercises: dict[str, phrases.Exercise]
    """Exercises by the name of the data source."""


@dataclass(frozen=True)
class Corpus:
    """The training clips, the first `TRAIN_ROWS` of which also serve reinforcement learning, and the held-out clips.

    The held-out sentences and voices do not occur in training.
    """

    train: list[Utterance]
    val: list[Utterance]


def plan(
    folder: Path,
    clips: int,
    seed: int = 0,
    val_rows: int = VAL_ROWS,
    exercises: Callable[[phrases.Sentence], dict[str, phrases.Exercise]] = phrases.exercises,
) -> Corpus:
    """Plan `clips` training clips, and a quarter as many (at most `val_rows`) for validation: sentences and voices."""
    rng = random.Random(seed)
    held_out = min(val_rows, clips // 4)
    sentences = phrases.draw(clips + held_out, rng)

    def utter(split: str, sentences: list[phrases.Sentence], variants: tuple[str, ...]) -> list[Utterance]:
        utterances = []
        for index, sentence in enumerate(sentences):
            voice = f"{rng.choice(ACCENTS)}+{rng.choice(variants)}"
            path = folder / "wav" / split / f"{index:05d}.wav"
            speed, pitch = rng.randint(185, 235), rng.randint(30, 70)
            clip = Clip(phrases.english(sentence), voice, speed, pitch, path)
            utterances.append(Utterance(sentence, clip, exercises(sentence)))
        return utterances

    train = utter("train", sentences[held_out:], TRAIN_VARIANTS)
    return Corpus(train, utter("val", sentences[:held_out], VAL_VARIANTS))


def swapped(utterances: list[Utterance], seed: int = 0) -> list[Utterance]:
    """Return the same sentences, each with the clip of another one, which differs from it in every slot if possible."""
    rng = random.Random(seed)
    sentences = [utterance.sentence for utterance in utterances]
    order = list(range(len(utterances)))

    def shared(row: int, other: int) -> int:
        return sum(a == b for a, b in zip(sentences[row], sentences[other], strict=True))

    for _ in range(100):
        for row in order:
            other = rng.randrange(len(order))
            now = shared(row, order[row]) + shared(other, order[other])
            if shared(row, order[other]) + shared(other, order[row]) <= now:
                order[row], order[other] = order[other], order[row]
    return [replace(utterance, clip=utterances[other].clip) for utterance, other in zip(utterances, order, strict=True)]


def write(corpus: Corpus, folder: Path) -> None:
    """Write the wav files, and `train.parquet` and `val.parquet` beside them."""
    write_clips([utterance.clip for utterance in corpus.train + corpus.val])
    write_rows(corpus.train[:TRAIN_ROWS], phrases.NAME, "train", folder / "train.parquet")
    write_rows(corpus.val, phrases.NAME, "val", folder / "val.parquet")


def write_rows(utterances: list[Utterance], source: str, split: str, file: Path) -> None:
    """Write the data source's questions about the utterances to a file in the corpus' folder."""
    rows = [
        {
            "data_source": source,
            "prompt": [{"role": "user", "content": f"<audio>{utterance.exercises[source].instruction}"}],
            "audios": [str(utterance.clip.path.relative_to(file.parent))],
            "ability": utterance.exercises[source].ability,
            "reward_model": {"style": "rule", "ground_truth": utterance.exercises[source].reference},
            "extra_info": {
                "index": index,
                "split": split,
                "sentence": phrases.english(utterance.sentence),
                "voice": utterance.clip.voice,
            },
        }
        for index, utterance in enumerate(utterances)
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
