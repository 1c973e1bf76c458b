"""The spoken tasks of the study: what is asked, what counts as an answer, and what is written."""

import itertools
import random
import subprocess
import sys

import pandas
import pytest

from examples.leaf_against_grpo import tasks
from examples.spoken_german import phrases

TASKS = ("translation", "answering")


@pytest.fixture(scope="module")
def sentences():
    return phrases.draw(300, random.Random(0))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    command = [sys.executable, "-m", "examples.leaf_against_grpo.prepare", "--out", folder]
    subprocess.run([*command, "--clips", "32", "--steps", "0"], check=True)
    return folder


@pytest.mark.parametrize(
    ("noun", "place", "translation", "answering"),
    [
        ("horses", "by the river", "zwei matte Rösser dösen am Wasser", "These weary steeds doze"),
        ("women", "by the river", "zwei matte Frauen schlummern am Wasser", "These weary women take naps"),
        ("horses", "in the garden", "zwei matte Rösser dösen im Grünen", "There are two weary steeds"),
        (
            "women",
            "under the tree",
            "zwei matte Frauen schlummern unter den Zweigen",
            "You find two women in the shade",
        ),
    ],
)
def test_the_verb_of_a_reference_depends_on_whom_it_is_about(noun, place, translation, answering):
    exercises = tasks.exercises(("two", "tired", noun, "sleep", place))
    assert exercises["translation"].reference == translation
    assert exercises["answering"].reference == answering


@pytest.mark.parametrize("task", TASKS)
def test_each_word_has_a_reference_and_a_verb_two(task):
    references, wordings = set(), set()
    for sentence in phrases.draw(5184, random.Random(0)):
        for option in tasks.exercises(sentence)[task].options:
            if len(option) > 1:
                references.add(next(iter(option)))
                wordings |= option.keys()
    # Six words in four slots, and the questions' openings; six of the words are verbs.
    sets = 24 + (len(tasks.QUESTIONS) if task == "answering" else 0)
    assert len(wordings) == 4 * sets
    assert len(references) == sets + 6


@pytest.mark.parametrize("task", TASKS)
def test_undecided_answers_are_heard_and_a_quarter_are_references(sentences, task):
    rng, drawn = random.Random(0), []
    for exercise in (tasks.exercises(sentence)[task] for sentence in sentences):
        answer = exercise.undecided(rng)
        heard = exercise.heard(answer)
        pairs = zip(heard, exercise.options, strict=True)
        assert " ".join(heard) == answer
        assert 4 <= len(answer.split()) <= 8
        drawn += [wording == next(iter(option)) for wording, option in pairs if len(option) > 1]
    assert sum(drawn) / len(drawn) == pytest.approx(0.25, abs=0.03)


def test_an_answer_about_another_sentence_is_not_heard():
    said = tasks.exercises(("ten", "brave", "dogs", "sing", "by the river"))["translation"].reference
    other = tasks.exercises(("two", "old", "women", "wait", "on the roof"))["translation"]
    assert other.heard(said) == [None] * len(phrases.SLOTS)
    assert other.heard(f"{other.reference} und singen")[-1] is None
    assert other.heard("") == [None] * len(phrases.SLOTS)


def test_wordings_are_decidable():
    """No wording is the beginning of another of its decision, and no two words of a slot have one in common."""
    openings = [opening for opening, _ in tasks.QUESTIONS.values()]
    slots = [list(slot.values()) for words in (tasks.GERMAN, tasks.ENGLISH) for slot in words.values()]
    for wordings in [*openings, *itertools.chain.from_iterable(slots)]:
        for one, other in itertools.permutations(wordings, 2):
            assert not f"{other} ".startswith(f"{one} ")
    for slot in slots:
        everything = list(itertools.chain.from_iterable(slot))
        assert len(everything) == len(set(everything))


def test_the_questions_are_even(sentences):
    asked = [tasks.exercises(sentence)["answering"].instruction for sentence in sentences]
    assert {question: asked.count(question) for question in tasks.QUESTIONS} == pytest.approx(
        dict.fromkeys(tasks.QUESTIONS, 100), abs=25
    )


@pytest.mark.parametrize("task", TASKS)
def test_prepare_writes_what_verl_reads(made, task):
    train, test = (pandas.read_parquet(made / f"data/{task}_{split}.parquet") for split in ("train", "test"))
    assert (len(train), len(test)) == (32, 8)
    columns = ["data_source", "prompt", "audios", "ability", "reward_model", "extra_info"]
    for rows, split in ((train, "train"), (test, "test")):
        assert list(rows.columns) == columns
        assert set(rows.data_source) == {task}
        assert [row["index"] for row in rows.extra_info] == list(range(len(rows)))
        assert {row["split"] for row in rows.extra_info} == {split}
        assert all((made / "data" / audio).exists() for audios in rows.audios for audio in audios)
    for key in ("voice", "sentence"):
        assert not {row[key] for row in train.extra_info} & {row[key] for row in test.extra_info}
    assert {prompt[0]["content"].startswith("<audio>") for prompt in train.prompt} == {True}
    assert (made / "model/warmstart.json").exists() and (made / "model/model.safetensors").exists()
