"""What the engine refuses, how rows are dealt out, and when it is worth it. What it computes: tests/e2e/comparing.py."""

import pytest
from transformers import LlamaConfig, MistralConfig, Qwen2Config
from verl.workers.engine.base import EngineRegistry

from verl_leaf.patches.groups_together import in_order
from verl_leaf.sharing.engine import SharingEngine, _cost, check_attention


def test_verl_finds_the_engine():
    assert EngineRegistry.get_engine_cls("language_model", "fsdp2") is SharingEngine


def test_sliding_windows_are_refused():
    check_attention(LlamaConfig())
    check_attention(Qwen2Config())
    for config in (MistralConfig(sliding_window=8), Qwen2Config(use_sliding_window=True, max_window_layers=4)):
        with pytest.raises(ValueError, match="share_prompts=True needs full attention"):
            check_attention(config)


def test_rows_stay_in_order():
    assert in_order([5, 1, 9, 2], 2, True) == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="5 rows cannot be dealt out equally to 2 ranks"):
        in_order([1] * 5, 2, True)


def test_long_answers_to_a_short_prompt_are_not_worth_it():
    assert _cost(1, 340 + 8 * 40, 512) < _cost(8, 340 + 40, 512)
    assert _cost(1, 20 + 8 * 400, 512) > _cost(8, 20 + 400, 512)
