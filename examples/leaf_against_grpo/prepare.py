"""Make the study's spoken corpus and the model that all tasks start from. Reuse what is complete.

python -m examples.leaf_against_grpo.prepare --out DIR
"""

from pathlib import Path

from examples.leaf_against_grpo import tasks
from examples.spoken_german import complete, corpus, tiny_model, warm_start

TEST_ROWS = 96
VOCABULARY = 1024
LEARNING_RATE = 6e-4
SAMPLING = {"temperature": 1.0, "top_p": 1.0}


def plan(folder: Path, clips: int) -> corpus.Corpus:
    """Return the corpus of the tasks."""
    return corpus.plan(folder, clips, val_rows=TEST_ROWS, exercises=tasks.exercises)


def make_data(folder: Path, clips: int) -> None:
    """Speak the clips and write the tasks' questions about them."""
    spoken = plan(folder, clips)
    corpus.write_clips([utterance.clip for utterance in spoken.train + spoken.val])
    for task in spoken.train[0].exercises:
        corpus.write_rows(spoken.train[: corpus.TRAIN_ROWS], task, "train", folder / f"{task}_train.parquet")
        corpus.write_rows(spoken.val, task, "test", folder / f"{task}_test.parquet")


def make_model(folder: Path, data: Path, clips: int, steps: int) -> None:
    """Build one model for all tasks, warm-start it, measure it on each, and save it."""
    processor = tiny_model.build_processor([tasks.TRANSLATE, tasks.DESCRIBE, tasks.REPORT], tasks.texts(), VOCABULARY)
    model = tiny_model.build_model(processor, hidden=256, layers=3)
    spoken = plan(data, clips)

    def measure(*inputs) -> dict[str, dict[str, float]]:
        return {task: warm_start.measure(*inputs, task, SAMPLING) for task in spoken.val[0].exercises}

    warm_start.make(folder, model, processor, spoken, steps, LEARNING_RATE, measure)


if __name__ == "__main__":
    complete.prepare(__doc__, 2500, (Path(tasks.__file__), Path(__file__)), make_data, make_model)
