"""The example with a tool that returns audio: what the warm start teaches, the reward, and all of the example."""

import asyncio
import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from verl.tools.tool_registry import load_all_tools

from examples.ask_again import prepare
from examples.ask_again.reward import PRICE, worth
from tests.helpers import PROJECT
from tests.helpers.recipe import run_example
from verl_leaf.runs.summary import read_scalars


def test_the_warm_start_writes_what_the_agent_loop_reads(processor):
    ids, labels = prepare.tokens(processor, [prepare.CALL, "two dogs"], [3, 2])
    end, audio = processor.tokenizer.eos_token, processor.audio_token
    text = processor.tokenizer.decode(ids)
    assert text.count(audio) == 5 and text.endswith(f"two dogs{end}")
    conversation = [*prepare.ASKED, {"role": "assistant", "content": prepare.CALL}, prepare.REPLY]
    whole = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    assert text.replace(audio * 3, audio).replace(audio * 2, audio) == whole + f"two dogs{end}"
    written = processor.tokenizer.decode([label for label in labels if label >= 0])
    assert written == f"{prepare.CALL}{end}two dogs{end}"


@pytest.mark.parametrize("said, turns, score", [("two old dogs", 2, 1), ("two old dogs", 4, 1 - PRICE), ("ten", 2, 0)])
def test_asking_has_a_price(said, turns, score):
    found = worth("ask_again_fast", said, "two old dogs", {"num_turns": turns})
    assert found["score"] == pytest.approx(score) and found["asked"] == (turns > 2)


def test_the_tool_returns_the_clip_of_the_row(tmp_path):
    soundfile.write(tmp_path / "slow.wav", np.full(800, 0.5), 16000)
    (tool,) = load_all_tools(f"{PROJECT}/examples/ask_again/tools.yaml", None)
    conversation = SimpleNamespace(audio_data=[], mm_processor_kwargs={"sampling_rate": 16000})

    async def call():
        number, _ = await tool.create(create_kwargs={"clip": str(tmp_path / "slow.wav")})
        _, _, returned = await tool.execute(number, {}, agent_data=conversation)
        await tool.release(number)
        return returned["audio"]

    (clip,) = asyncio.run(call())
    assert clip["sampling_rate"] == 16000 and clip["array"] == pytest.approx(np.full(800, 0.5), abs=1e-3)


@pytest.mark.e2e
@pytest.mark.thorough
def test_the_example(tmp_path):
    """Everything that ``run.sh`` does, on a few clips, for a few steps of the warm start and two of the training."""
    short = ("trainer.total_training_steps=2", "trainer.save_freq=-1", "trainer.test_freq=2")
    run_example("ask_again", tmp_path, *short, CLIPS="32", STEPS="60")
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["rollout_probs_diff_max"] < 1e-4
    scalars = read_scalars(tmp_path / "run/metrics")
    assert all(any(f"ask_again_{kind}" in name and "asked" in name for name in scalars) for kind in ("slow", "fast"))
