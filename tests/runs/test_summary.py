"""The summary takes whatever a run has, and says when it has not trained."""

import io
import json

import pytest
import sacrebleu
from omegaconf import OmegaConf

from verl_leaf.common.console import Console
from verl_leaf.common.names import REWARD_PATHS, SWAPPED_AUDIO_SUFFIX
from verl_leaf.rewards.metrics import tokenizer
from verl_leaf.runs.folder import RunFolder
from verl_leaf.runs.metrics import core_score, read_scalars
from verl_leaf.runs.summary import read_validation, summarise, summarise_epochs, trained

RIGHT = {"output": "Zwei alte Hunde schlafen", "gts": "zwei alte Hunde schlafen", "score": 0.8, "data_source": "x"}
SWAPPED = {**RIGHT, "output": "ja", "score": 0.0, "data_source": "x" + SWAPPED_AUDIO_SUFFIX}
STEP = {
    "training/global_step": 1,
    "training/rollout_probs_diff_max": 1e-6,
    "training/updates/sum": 4,
    "training/skipped_updates/sum": 0,
    "timing_s/step": 9.0,
}


@pytest.fixture
def run(tmp_path):
    """A run's folder with metrics and validations."""

    def run(metrics=(), validations=(), swapped=True, path=tmp_path):
        folder = RunFolder(path)
        for part in (folder.config.parent, folder.metrics, folder.validation):
            part.mkdir(parents=True)
        config = {
            "algorithm": {"adv_estimator": "leaf"},
            "actor_rollout_ref": {"model": {"path": "m"}, "rollout": {"n": 8}},
            "data": {"train_batch_size": "${leaf.batch:3,4}"},
        }
        OmegaConf.save(OmegaConf.create(config), folder.config)
        lines = "".join(json.dumps({"step": step, "data": data}) + "\n" for step, data in metrics)
        (folder.metrics / "000.jsonl").write_text(lines)
        for step, rows in dict(validations).items():
            folder.answers_of(step).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        if swapped:
            folder.swapped_rows.touch()
        return folder

    return run


def shown(folder):
    console = Console(record=True, width=200, file=io.StringIO())
    summary = summarise(folder, console)
    assert json.loads(folder.summary.read_text()) == summary
    return summary, console.export_text()


def test_a_whole_run(run):
    second = {**STEP, "training/global_step": 2, "timing_s/step": 3.0, "training/rollout_probs_diff_max": 2e-6}
    third = {**second, "training/global_step": 3, "timing_s/step": 4.0}
    folder = run([(1, STEP), (2, second), (3, third)], {0: [SWAPPED, SWAPPED], 3: [RIGHT, SWAPPED]})
    summary, text = shown(folder)
    assert (summary["steps"], summary["rollouts"]) == (3, 3 * 4 * 8)
    assert summary["val"]["before"] == {"bleu": None, "reward": None, "step": 0}
    assert summary["val"]["after"] == {"bleu": pytest.approx(100), "reward": 0.8, "step": 3}
    assert summary["val"]["swapped_audio"] == {"bleu": 0.0, "reward": 0.0, "step": 3}
    assert summary["seconds_per_step"] == {"step": 4.0}  # the median: the first step compiles
    assert summary["rollout_probs_diff_max"] == 2e-6
    assert trained(summary) and "100.0" in text


def test_validation_alone(run):
    summary, text = shown(run([(0, {})], {0: [RIGHT, SWAPPED]}))
    assert (summary["steps"], summary["val"]["before"]["reward"], summary["val"]["after"]) == (0, 0.8, None)
    assert summary["rollout_probs_diff_max"] is None and summary["seconds_per_step"] == {}
    assert trained(summary) and "before" in text


CHINESE = [
    ("今天天气很好我们去公园散步吧", "今天天气很好，我们去公园散步吧。"),
    ("她在图书馆里读书", "她在图书馆里安静地看书。"),
]


@pytest.mark.parametrize(
    "reward",
    [{}, {"path": "mine.py"}, {"path": "pkg://verl_leaf.rewards", "reward_kwargs": {"tokenize": {"x/y": "zh"}}}],
)
def test_bleu_counts_the_words_of_the_reward(run, reward):
    """Without a tokeniser, Chinese has hardly any words, and BLEU is near 0."""
    rows = [{**RIGHT, "output": answer, "gts": [text], "data_source": "x/y"} for answer, text in CHINESE]
    folder = run([(1, STEP)], {1: rows})
    settings = OmegaConf.merge(OmegaConf.load(folder.config), {"reward": {"custom_reward_function": reward}})
    OmegaConf.save(settings, folder.config)
    summary, text = shown(folder)
    answers, references = zip(*CHINESE, strict=True)
    by_hand = sacrebleu.corpus_bleu(answers, [references], lowercase=True, tokenize="zh").score
    assert by_hand > 40 and summary["val"]["after"]["bleu"] == pytest.approx(by_hand)
    assert f"BLEU: case:lc|eff:no|tok:zh|smooth:exp|version:{sacrebleu.__version__}" in text
    assert summary["val"]["swapped_audio"] is None


@pytest.mark.parametrize(
    "reward",
    [
        {"name": "choice"},
        {"name": "choice_format", "reward_kwargs": {"weight": 0.2}},
        {"name": "by_data_source", "reward_kwargs": {"rewards": {"x": "choice"}}},
    ],
)
def test_questions_with_choices_have_no_bleu(run, reward):
    folder = run([(1, STEP)], {1: [{**RIGHT, "output": "<answer>B</answer>", "gts": ["B", "cat"]}]})
    settings = OmegaConf.load(folder.config)
    settings = OmegaConf.merge(settings, {"reward": {"custom_reward_function": {"path": REWARD_PATHS[0], **reward}}})
    OmegaConf.save(settings, folder.config)
    summary, text = shown(folder)
    assert summary["val"]["after"]["bleu"] is None and "BLEU:" not in text


def test_data_sources_have_words_of_their_own(run):
    rows = [{**RIGHT, "output": CHINESE[0][0], "gts": CHINESE[0][1], "data_source": "zh"}, RIGHT]
    summary, _ = shown(run([(1, STEP)], {1: rows}))
    zh = tokenizer("zh")
    answers, references = [zh(CHINESE[0][0]), RIGHT["output"]], [zh(CHINESE[0][1]), RIGHT["gts"]]
    by_hand = sacrebleu.corpus_bleu(answers, [references], lowercase=True, tokenize="none", force=True).score
    assert summary["val"]["after"]["bleu"] == pytest.approx(by_hand)
    assert "tok:x=13a,zh=zh" in summary["bleu_signature"]


def test_a_validation_is_of_its_step_and_of_this_training(run):
    """The folder holds answers of step 9 from an earlier training, which went further."""
    own = [(step, {**STEP, "training/global_step": step}) for step in (1, 2, 3)]
    folder = run(own, {0: [RIGHT], 2: [RIGHT], 9: [{**RIGHT, "score": 0.1}]})
    (folder.metrics / "000.jsonl").rename(folder.metrics / "001.jsonl")
    (folder.metrics / "000.jsonl").write_text(json.dumps({"step": 9, "data": {"training/global_step": 9}}) + "\n")
    summary, text = shown(folder)
    assert (summary["steps"], summary["val"]["after"]["step"], summary["val"]["after"]["reward"]) == (3, 2, 0.8)
    assert "leaf: 3 steps" in text and ["after", "2"] in [line.split()[1::2][:2] for line in text.splitlines()]


@pytest.mark.parametrize("score", [None, "good", float("nan")])
def test_a_missing_score_is_missing(run, score):
    summary, _ = shown(run([(1, STEP)], {1: [RIGHT, {**RIGHT, "score": score}, SWAPPED]}))
    assert summary["val"]["after"]["reward"] is None and summary["val"]["swapped_audio"]["reward"] == 0.0


@pytest.mark.parametrize("source", ["x", "fixie-ai/covost2", "a/reward/mean@1", "a\nb"])
@pytest.mark.parametrize("section, of", [("core", "reward"), ("aux", "reward")])
def test_a_reward_of_ones_own_that_returns_a_number(run, source, section, of):
    """Then nothing in verl's dump tells swapped audio apart, but verl's metrics do."""
    rows = [{key: row[key] for key in ("output", "gts", "score")} for row in (RIGHT, SWAPPED)]
    means = {
        f"val-{section}/{source}/{of}/mean@1": 0.8,
        f"val-{section}/{source}{SWAPPED_AUDIO_SUFFIX}/{of}/mean@1": 0.1,
        f"val-core/{source}/acc/mean@1": 0.5,
    }
    summary, _ = shown(run([(2, {**STEP, **means})], {2: rows}))
    assert summary["val"] == {
        "before": None,
        "after": {"bleu": None, "reward": 0.8, "step": 2},
        "swapped_audio": {"bleu": None, "reward": 0.1, "step": 2},
    }


def test_a_control_that_is_missing_is_missing(run):
    """Two data sources have no reward in common, and verl has reported none for the control."""
    rows = [{key: row[key] for key in ("output", "gts", "score")} for row in (RIGHT, SWAPPED)]
    means = {"val-core/a/x/reward/mean@1": 0.8, "val-core/a/y/reward/mean@1": 0.2}
    summary, _ = shown(run([(2, {**STEP, **means})], {2: rows}))
    assert summary["val"]["after"] == {"bleu": None, "reward": None, "step": 2}
    assert summary["val"]["swapped_audio"] is None


def test_what_a_validation_s_score_is_of():
    assert core_score("val-core/fixie-ai/covost2/reward/mean@4") == "fixie-ai/covost2"
    assert core_score("val-core/openai/gsm8k/acc/mean@1") == "acc of openai/gsm8k"
    for other in ("val-aux/x/reward/mean@1", "val-core/x/reward/best@4/mean", "critic/score/mean"):
        assert core_score(other) is None


def test_without_the_control_all_answers_are_the_runs_own(run):
    summary, _ = shown(run([(1, STEP)], {1: [{"output": "ja", "gts": 7, "score": 1.0}]}, swapped=False))
    assert (
        summary["val"]["after"] == {"bleu": 0.0, "reward": 1.0, "step": 1} and summary["val"]["swapped_audio"] is None
    )


def test_a_run_without_any_validation_or_step(run):
    summary, text = shown(run())
    assert summary["val"] == {"before": None, "after": None, "swapped_audio": None}
    assert summary["steps"] == 0 and "no validation" in text


@pytest.mark.parametrize("skipped, well", [(0, True), (1, True), (2, False), (10, False)])
def test_updates_that_verl_skipped(run, skipped, well):
    metrics = [
        (step, {**STEP, "training/updates/sum": 1, "training/skipped_updates/sum": int(step <= skipped)})
        for step in range(1, 11)
    ]
    summary, text = shown(run(metrics, {10: [RIGHT, SWAPPED]}))
    assert summary["updates"] == {"all": 10, "skipped": skipped}
    assert trained(summary) == well
    assert text.startswith(f"Not trained: verl skipped {skipped} of 10 updates") == (not well)


def test_epochs_are_summed(run, tmp_path):
    for number, step in ((1, {**STEP, "training/global_step": 5}), (2, {**STEP, "training/skipped_updates/sum": 1})):
        rows = {0: [SWAPPED, {**RIGHT, "score": 0.1}], step["training/global_step"]: [RIGHT, SWAPPED]}
        folder = run([(step["training/global_step"], step)], rows, path=tmp_path / f"epoch_{number}")
        summarise(folder, Console(quiet=True))
    summarise_epochs(RunFolder(tmp_path), Console(quiet=True))
    summary = json.loads(RunFolder(tmp_path).summary.read_text())
    assert (summary["epochs"], summary["steps"], summary["rollouts"]) == (2, 6, 6 * 32)
    assert summary["updates"] == {"all": 8, "skipped": 1}
    assert summary["val"]["before"]["reward"] == 0.1 and summary["val"]["after"]["reward"] == 0.8
    assert summary["val"]["after"]["step"] == summary["val"]["swapped_audio"]["step"] == 6


def test_answers_may_hold_any_character_of_a_line(tmp_path):
    rows = [{**RIGHT, "output": f"zwei{mark}alte"} for mark in "\u2028\u0085\u000b\u001c"]
    (tmp_path / "1.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert read_validation(tmp_path / "1.jsonl")[0]["reward"] == pytest.approx(0.8)


def test_metrics_of_an_interrupted_run_are_one_series(tmp_path):
    (tmp_path / "000.jsonl").write_text(
        '{"step":1,"data":{"a":1.0}}\n{"step":2,"data":{"a":2.0,"b":null}}\n{"step":3,"da'
    )
    (tmp_path / "001.jsonl").write_text('{"step":2,"data":{"a":2.5}}\n{"step":3,"data":{"a":3.0}}\n')
    assert read_scalars(tmp_path) == {"a": {1: 1.0, 2: 2.5, 3: 3.0}}


def test_the_adapter_is_of_the_last_step_that_was_saved_and_its_step_is_said(run):
    """With ``save_freq`` of 2, three steps end without a checkpoint of the third."""
    folder = run([(step, {**STEP, "training/global_step": step}) for step in (1, 2, 3)])
    for path, content in ((folder.adapter_of(2), "2"), (folder.adapter, "of an earlier end")):
        path.mkdir(parents=True)
        (path / "adapter_config.json").write_text("{}")
        (path / "adapter_model.safetensors").write_text(content)
    (folder.adapter / "more").touch()
    summary, text = shown(folder)
    assert (summary["steps"], summary["adapter_step"]) == (3, 2)
    assert (folder.adapter / "adapter_model.safetensors").read_text() == "2"
    assert not (folder.adapter / "more").exists(), "nothing is left of the older one"
    assert f"Adapter of step 2, in PEFT's format: {folder.adapter}" in text
    (folder.checkpoints / "latest_checkpointed_iteration.txt").write_text("1")
    assert shown(folder)[0]["adapter_step"] is None, "the adapter of step 2 is of an earlier training"
