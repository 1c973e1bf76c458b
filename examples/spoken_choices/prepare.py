"""Make spoken questions with choices and the model that is warm-started on them. Reuse what is complete.

python -m examples.spoken_choices.prepare --out DIR
"""

import functools
import json
from pathlib import Path

from examples.spoken_choices import questions
from examples.spoken_german import complete, corpus, tiny_model, warm_start
from verl_leaf.prepare import audioqa, convert

TEST_ROWS = 96
VOCABULARY = 768


def plan(folder: Path, clips: int) -> corpus.Corpus:
    """Return the corpus of the questions."""
    return corpus.plan(folder, clips, val_rows=TEST_ROWS, exercises=questions.exercises)


def make_data(folder: Path, clips: int) -> None:
    """Speak the clips and write the table of questions about them."""
    spoken = plan(folder, clips)
    corpus.write_clips([utterance.clip for utterance in spoken.train + spoken.val])
    lines = [
        json.dumps(questions.row(each.sentence) | {"audio": str(each.clip.path.relative_to(folder)), "split": split})
        for split, utterances in (("train", spoken.train[: corpus.TRAIN_ROWS]), ("test", spoken.val))
        for each in utterances
    ]
    (folder / f"{questions.NAME}.jsonl").write_text("\n".join(lines) + "\n")


def make_model(folder: Path, data: Path, clips: int, steps: int) -> None:
    """Build the model, warm-start it, measure it, and save it."""
    processor = tiny_model.build_processor(questions.instructions(), questions.texts(), VOCABULARY)
    measure = functools.partial(warm_start.measure, source=questions.NAME)
    model = tiny_model.build_model(processor)
    warm_start.make(folder, model, processor, plan(data, clips), steps, measure=measure)


if __name__ == "__main__":
    files = tuple(Path(module.__file__) for module in (questions, audioqa, convert))
    complete.prepare(__doc__, 1000, (*files, Path(__file__)), make_data, make_model)
