"""verl keeps the processors of speech models."""

import pytest
from verl.utils.tokenizer import hf_processor, tokenizer

from verl_leaf.patches import STATUS


@pytest.mark.filterwarnings("ignore")
def test_a_speech_model_has_a_processor(task):
    assert hf_processor(str(task / "model")).__class__.__name__ == "Qwen2AudioProcessor"


@pytest.mark.filterwarnings("ignore")
def test_a_speech_model_has_none_without_the_patch(task):
    without = tokenizer.hf_processor.__wrapped__(str(task / "model"))
    assert (without is not None) == ("solved upstream" in STATUS["speech_processor", tokenizer.__name__])


@pytest.mark.filterwarnings("ignore")
def test_other_models_are_verls_affair(tmp_path):
    assert hf_processor(str(tmp_path)) is None
