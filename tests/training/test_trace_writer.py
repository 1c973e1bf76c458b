"""Traces hold what the step computed, and never hurt it."""

import dataclasses
import json
import logging
import math

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from verl_leaf.algorithm import leaf_advantages
from verl_leaf.algorithm.estimators import LeafOptions, Rollouts
from verl_leaf.runs.traces import read_trace
from verl_leaf.training.traces.writer import TraceWriter, audio_of, pieces, prompts_of

# The worked example of the README, beside an empty row as the trainer pads with; rewards, tokens, surprisal.
RESPONSES = [[5, 6, 7, 8, 9], [5, 6, 7, 4, 9], [5, 6, 3, 8, 9], [5, 6, 7, 8, 2]]
SURPRISAL = [
    [0.1, 0.2, 2.0, 0.1, math.inf],
    [0.1, 0.2, 0.3, 1.0, 0.1],
    [0.1, 0.2, 1.5, 0.2, 0.1],
    [0.1, 0.2, 0.4, 0.1, 0.9],
]
REWARDS = [1.0, 0.5, 0.0, 0.8]


@pytest.fixture
def step():
    responses = torch.tensor([*RESPONSES, [0] * 5])
    log_probs = -torch.tensor([*SURPRISAL, [0.0] * 5])
    rewards = torch.tensor([*REWARDS, 0.0])
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask[4] = False
    mask[1, 2] = False  # a token of a tool
    return computed(Rollouts(responses, mask, rewards, torch.tensor([0, 0, 0, 0, 1]), surprisal=-log_probs))


def computed(rollouts):
    given = rollouts.tokens, rollouts.surprisal, rollouts.rewards, rollouts.mask, rollouts.group
    return rollouts, leaf_advantages(*given, lengths=rollouts.lengths)


ROWS = {
    "prompts": [torch.tensor([1, 2])] * 5,
    "raw_prompt": [[{"role": "user", "content": [{"type": "audio", "audio": "/a.wav"}]}]] * 5,
    "data_source": ["x"] * 5,
    "reward_model": [{"ground_truth": "ja"}] * 5,
}


def test_a_trace_holds_the_tree_and_its_credit(step, processor, tmp_path):
    (line,) = prompts_of(*step, ROWS, processor.tokenizer, tmp_path)
    prompt = line.model_dump()
    assert prompt["reference"] == "ja" and prompt["audio"] == ["/a.wav"]
    assert prompt["root_value"] == pytest.approx(sum(REWARDS) / 4)
    assert [boundary["position"] for boundary in prompt["boundaries"]] == [2, 4]
    assert prompt["boundaries"][1]["response"] == 0
    assert prompt["nodes"] == [
        {"boundary": 0, "responses": [0, 1, 2, 3], "value": pytest.approx(0.575)},
        {"boundary": 1, "responses": [0, 3], "value": pytest.approx(0.9)},
    ]
    for row, response in enumerate(prompt["responses"]):
        assert response["tokens"] == RESPONSES[row]
        assert response["reward"] == pytest.approx(REWARDS[row])
        assert response["surprisal"] == [
            pytest.approx(s, abs=1e-6) if math.isfinite(s) else None for s in SURPRISAL[row]
        ]
        advantages = [0.0] * 5
        for span in response["spans"]:
            for t in range(span["start"], span["end"]):
                advantages[t] = span["advantage"] * response["policy"][t]
        assert advantages == pytest.approx(step[1].advantages[row].tolist())
    assert [span["node"] for span in prompt["responses"][3]["spans"]] == [0, 1, None]


def test_a_rejected_response_is_in_the_trace_and_a_row_of_padding_is_not(step, processor, tmp_path):
    """With lengths as the attention has them, where neither is empty."""
    rollouts, _ = step
    rollouts.mask[2] = False
    step = computed(dataclasses.replace(rollouts, lengths=torch.tensor([5, 5, 5, 5, 1])))
    (prompt,) = prompts_of(*step, ROWS, processor.tokenizer, tmp_path)
    assert [response.policy for response in prompt.responses][2] == [0] * 5


def test_a_file_a_step_that_is_due(step, processor, tmp_path):
    options = LeafOptions(trace_dir=str(tmp_path / "traces"), trace_every=2)
    writer = TraceWriter()
    for number in (1, 2):
        writer.write(options, number, *step, lambda: ROWS, processor.tokenizer)
    writer._thread.shutdown()
    (file,) = (tmp_path / "traces").iterdir()
    head, prompt = map(json.loads, file.read_text().strip().split("\n"))
    assert file.name == "step_000002.jsonl" and (head["format"], head["step"]) == ("leaf-trace", 2)
    assert prompt == prompts_of(*step, ROWS, processor.tokenizer, tmp_path)[0].model_dump()


def test_a_step_whose_beginning_was_left_out_has_a_head_all_the_same(step, processor, tmp_path):
    options = LeafOptions(trace_dir=str(tmp_path), trace_every=1)
    for _ in range(2):
        writer = TraceWriter()
        writer.write(options, 1, *step, lambda: ROWS, processor.tokenizer, append=True)
        writer._thread.shutdown()
    skipped = []
    trace = read_trace(1, tmp_path / "step_000001.jsonl", skipped)
    assert list(trace.prompts) == [1, 2] and skipped == []
    assert trace.prompts[1] == trace.prompts[2] == prompts_of(*step, ROWS, processor.tokenizer, tmp_path)[0]


def test_what_goes_wrong_is_one_warning(step, processor, tmp_path, caplog):
    (tmp_path / "file").touch()
    options = LeafOptions(trace_dir=str(tmp_path / "file/traces"), trace_every=1)
    writer = TraceWriter()

    def gone():
        raise ConnectionError("the trainer's storage is gone")

    with caplog.at_level(logging.WARNING):
        writer.write(options, 1, *step, lambda: ROWS, processor.tokenizer)
        writer._pending.result()
        writer.write(options, 2, *step, gone, processor.tokenizer)
    assert len(caplog.records) == 1 and "NotADirectoryError" in caplog.text


def test_pieces_join_to_the_text(processor):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    bytewise.pre_tokenizer, bytewise.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytewise)
    text = "für 日本 ok"
    ids = tokenizer(text)["input_ids"]
    split = pieces(tokenizer, ids)
    assert len(split) == len(ids) > len(text) and "".join(split) == text
    assert "".join(pieces(processor.tokenizer, processor.tokenizer("zwei alte")["input_ids"])).strip() == "zwei alte"


def test_audio_is_found_again(tmp_path):
    content = [
        {"type": "audio", "audio": {"bytes": b"...", "path": "name.wav"}},
        {"type": "audio", "audio": {"array": [0.0], "sampling_rate": 16000}},
        {"type": "text", "text": "and"},
        {"type": "audio", "audio": "/b.wav"},
        {"type": "audio", "audio": "data:audio/wav;base64,Li4u"},
    ]
    messages = [{"role": "system", "content": "hear"}, {"role": "user", "content": content}]
    stored, nothing, path, same = audio_of(messages, tmp_path)
    assert (tmp_path / stored).read_bytes() == b"..." and nothing is None and (path, same) == ("/b.wav", stored)
