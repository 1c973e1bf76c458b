"""The spoken tasks of the study: what is asked, what counts as an answer, and what is written."""

import itertools
import random
import subprocess
import sys

import pandas
import pytest
import torch
from sacrebleu import sentence_bleu

from examples.leaf_against_grpo import tasks
from examples.leaf_against_grpo.cells import EARLY_TASK, TASKS
from examples.spoken_german import phrases
from verl_leaf.algorithm import early_metrics, find_forks, pad_groups


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
    ("noun", "place", "translation", "register"),
    [
        (
            "horses",
            "by the river",
            "zwei matte Rösser dösen am Wasser",
            "Lo behold two steeds slumbering beside the brook",
        ),
        (
            "women",
            "by the river",
            "zwei matte Frauen schlummern am Wasser",
            "One observes two ladies reposing alongside the waterway",
        ),
        (
            "dogs",
            "in the garden",
            "zwei matte Vierbeiner dösen im Grünen",
            "Lo behold two hounds slumbering amid the blossoms",
        ),
        (
            "children",
            "under the tree",
            "zwei matte Kinder schlummern unter den Zweigen",
            "One observes two minors reposing below the canopy",
        ),
    ],
)
def test_a_reference_depends_on_whom_it_is_about(noun, place, translation, register):
    exercises = tasks.exercises(("two", "tired", noun, "sleep", place))
    assert exercises["translation"].reference == translation
    assert exercises["register"].reference == register


@pytest.mark.parametrize("task", TASKS)
def test_each_answer_takes_four_decisions_between_four_wordings(sentences, task):
    for sentence in sentences:
        sizes = [len(option) for option in tasks.exercises(sentence)[task].options]
        assert sorted(sizes)[-4:] == [4] * 4 and set(sizes[:-4]) <= {1, 4} and sizes.count(4) == 4


@pytest.mark.parametrize("task", TASKS)
def test_undecided_answers_are_heard_and_a_quarter_are_references(sentences, task):
    rng, drawn = random.Random(0), []
    for exercise in (tasks.exercises(sentence)[task] for sentence in sentences * 4):
        answer = exercise.undecided(rng)
        heard = exercise.heard(answer)
        pairs = zip(heard, exercise.options, strict=True)
        assert " ".join(heard) == answer
        drawn += [wording == next(iter(option)) for wording, option in pairs if len(option) > 1]
    assert sum(drawn) / len(drawn) == pytest.approx(0.25, abs=0.03)


def test_an_undecided_answer_keeps_to_its_register_more_often_than_not(sentences):
    rng, kept = random.Random(0), []
    for exercise in (tasks.exercises(sentence)["register"] for sentence in sentences):
        heard = exercise.heard(exercise.undecided(rng))
        open_decisions = [
            (said, list(option)) for said, option in zip(heard, exercise.options, strict=True) if len(option) > 1
        ]
        (opening, openings), *rest = open_decisions
        kept += [option.index(said) == openings.index(opening) for said, option in rest]
    assert sum(kept) / len(kept) == pytest.approx(tasks.KEPT, abs=0.05)


@pytest.mark.parametrize("task", TASKS)
def test_only_in_register_the_first_fork_settles_most(sentences, task):
    rng, answers, rewards = random.Random(0), [], []
    for exercise in (tasks.exercises(sentence)[task] for sentence in sentences[:100]):
        answers.append([exercise.undecided(rng) for _ in range(8)])
        rewards += [sentence_bleu(answer, [exercise.reference], lowercase=True).score for answer in answers[-1]]
    words = {word: number for number, word in enumerate(" ".join(itertools.chain(*answers)).split())}
    groups = [[[words[word] for word in answer.split()] for answer in group] for group in answers]
    early = early_metrics(find_forks(*pad_groups(groups)), torch.tensor(rewards, dtype=torch.float64))["early"]
    assert early > 0.5 if task == EARLY_TASK else early < 0.25


def test_an_answer_about_another_sentence_is_not_heard():
    said = tasks.exercises(("ten", "brave", "dogs", "sing", "by the river"))["translation"].reference
    other = tasks.exercises(("two", "old", "women", "wait", "on the roof"))["translation"]
    assert other.heard(said) == [None] * len(phrases.SLOTS)
    assert other.heard(f"{other.reference} und singen")[-1] is None
    assert other.heard("") == [None] * len(phrases.SLOTS)


def test_wordings_are_decidable():
    """No wording is the beginning of another of its decision, and no two words of a slot have one in common."""
    tables = (tasks.GERMAN, tasks.ENGLISH, tasks.REGISTERS)
    slots = [list(slot.values()) for words in tables for slot in words.values()]
    for wordings in [tasks.OPENINGS, *itertools.chain.from_iterable(slots)]:
        for one, other in itertools.permutations(wordings, 2):
            assert not f"{other} ".startswith(f"{one} ")
    for slot in slots:
        everything = list(itertools.chain.from_iterable(slot))
        assert len(everything) == len(set(everything))


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
