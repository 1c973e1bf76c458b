"""Make the spoken corpus and the warm-started tiny Qwen2-Audio. Reuse what is complete.

python -m examples.spoken_german.prepare --out DIR
"""

from pathlib import Path

from examples.spoken_german import complete, corpus, tiny_model, warm_start


def make_data(folder: Path, clips: int) -> None:
    """Speak the corpus and write it."""
    corpus.write(corpus.plan(folder, clips), folder)


def make_model(folder: Path, data: Path, clips: int, steps: int) -> None:
    """Build the model, warm-start it, measure it, and save it."""
    processor = tiny_model.build_processor()
    warm_start.make(folder, tiny_model.build_model(processor), processor, corpus.plan(data, clips), steps)


if __name__ == "__main__":
    complete.prepare(__doc__, 1000, (), make_data, make_model)
