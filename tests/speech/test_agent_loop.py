"""Turns of the agent loop: what the engine is asked, what the trainer gets. Real runs are in tests/e2e."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
from verl.tools.tool_registry import load_all_tools

import tests.helpers.agent_loops  # noqa: F401  (registers the format `often`)
from tests.helpers import PROJECT
from verl_leaf.models import family_of_processor
from verl_leaf.speech.agent_loop import SharedPrompt, SpeechAgentLoop
from verl_leaf.speech.dataset import SpeechDataset
from verl_leaf.speech.tools import Crop

CLIP = np.random.default_rng(0).normal(size=16000).astype(np.float32)
MESSAGES = [
    {
        "role": "user",
        "content": [
            {"type": "audio", "audio": {"array": CLIP, "sampling_rate": 16000}},
            {"type": "text", "text": "Translate into German."},
        ],
    }
]
CALL, ANSWER = [7, 8, 12], [7, 8, 9]  # odd and even, see agent_loops.OftenParser


class Engine:
    """Says what a test wants it to, and keeps what it was asked."""

    def __init__(self, *says: list[int]):
        self.says, self.asked = list(says), []

    async def generate(self, **asked):
        self.asked.append(asked | {"audio_data": list(asked["audio_data"])})
        tokens = self.says.pop(0)[: asked["sampling_params"]["max_tokens"]]
        steps = {"min_global_steps": len(self.asked), "max_global_steps": len(self.asked)}
        log_probs = [-0.5] * len(tokens)
        return SimpleNamespace(token_ids=tokens, log_probs=log_probs, num_preempted=0, extra_fields=steps)


def converse(processor, monkeypatch, engine, shared=None, response_length=120, **multi_turn):
    monkeypatch.setattr(ray, "put", lambda clips: clips)
    settings = {
        "max_user_turns": None,
        "max_assistant_turns": None,
        "max_parallel_calls": 1,
        "max_tool_response_length": 256,
        "tool_response_truncate_side": "middle",
        "format": "often",
        **multi_turn,
    }
    rollout = {"multi_turn": settings, "prompt_length": 160, "response_length": response_length}
    tools = load_all_tools(f"{PROJECT}/tests/helpers/tools.yaml", None)

    async def run():
        loop = SpeechAgentLoop(
            trainer_config=DictConfigWrap(OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}})),
            server_manager=engine,
            tokenizer=processor.tokenizer,
            processor=processor,
            dataset_cls=SpeechDataset,
            data_config=DictConfigWrap(OmegaConf.create()),
            tools=ToolListWrap(tools),
        )
        return await loop.run({"temperature": 1.0}, shared=shared or SharedPrompt(True), raw_prompt=MESSAGES)

    return asyncio.run(run())


def test_a_crop_is_heard_in_the_next_turn(processor, monkeypatch):
    engine, shared = Engine(CALL, ANSWER), SharedPrompt(True)
    output = converse(processor, monkeypatch, engine, shared)
    placeholder = family_of_processor(processor).audio_token_id(processor)
    first, second = engine.asked
    assert first["request_id"] == second["request_id"]
    assert [each["prompt_ids"].count(placeholder) for each in engine.asked] == [1, 2]
    assert [list(map(len, each["audio_data"])) for each in engine.asked] == [[16000], [16000, 8000]]
    np.testing.assert_array_equal(second["audio_data"][1], CLIP[1600:9600])
    assert [each["sampling_params"]["max_tokens"] for each in engine.asked] == [120, 120 - len(output.response_ids) + 3]

    read = output.response_ids[3:-3]
    assert output.response_ids[:3] == CALL and output.response_ids[-3:] == ANSWER == output.answer_ids
    assert output.response_mask == [1] * 3 + [0] * len(read) + [1] * 3
    assert output.response_logprobs == [-0.5] * 3 + [0.0] * len(read) + [-0.5] * 3
    assert processor.tokenizer.decode(read).count(processor.audio_token) == read.count(placeholder) == 12
    assert (output.num_turns, output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]) == (
        4,
        1,
        2,
    )
    whole, cropped = (audio.features["input_features"] for audio in output.audio)
    assert whole.shape[-1] > cropped.shape[-1]
    again = converse(processor, monkeypatch, Engine(CALL, ANSWER), shared)
    assert [one is other for one, other in zip(again.audio, output.audio, strict=True)] == [True, True]


def test_the_end_of_a_turn_is_not_written_twice(processor, monkeypatch):
    end = processor.tokenizer.eos_token_id
    call = [*CALL, end] if (sum(CALL) + end) % 2 else [*CALL, 1, end]
    output = converse(processor, monkeypatch, Engine(call, ANSWER))
    read = output.response_ids[len(call) : -3]
    assert read[0] != end and output.response_ids.count(end) == 2


@pytest.mark.parametrize(
    "limit, turns",
    [({}, 3), ({"max_assistant_turns": 1}, 1), ({"max_user_turns": 1}, 2), ({"response_length": 30}, 1)],
)
def test_limits(processor, monkeypatch, limit, turns):
    """Also that of the response: a reply for which there is no room is left out, and never cut."""
    engine = Engine(CALL, CALL, ANSWER)
    output = converse(processor, monkeypatch, engine, **{"response_length": 200, **limit})
    assert len(engine.asked) == turns == sum(map(bool, "".join(map(str, output.response_mask)).split("0")))
    assert output.response_mask[-1] == 1 and len(output.audio) == turns


@pytest.mark.parametrize(
    "hears, reply",
    [
        (lambda *_, **__: CLIP[20_000], "Error executing tool 'German': index 20000 is out of bounds"),
        (lambda *_, **__: CLIP[:800], "No audio: audio array: the audio lasts 0.050 s and would become 1 audio token"),
    ],
)
def test_what_is_wrong_with_a_call_is_the_reply(processor, monkeypatch, hears, reply):
    monkeypatch.setattr(Crop, "hear", hears)
    output = converse(processor, monkeypatch, Engine(CALL, ANSWER), response_length=400)
    assert reply in processor.tokenizer.decode(output.response_ids)
    assert len(output.audio) == 1 and output.num_turns == 4


def test_crops():
    tool = Crop({}, None)
    assert tool.name == "crop" and len(tool.hear([CLIP], 16000, start=0.25, end=1)) == 12000
    for start, end in ((0.5, 0.5), (-1, 1), (0, 1.1)):
        with pytest.raises(ValueError, match="must be in order, from 0 to 1.00 seconds"):
            tool.hear([CLIP], 16000, start=start, end=end)


def test_no_features_in_validation(processor, monkeypatch):
    assert not converse(processor, monkeypatch, Engine(CALL, ANSWER), SharedPrompt(False)).audio
