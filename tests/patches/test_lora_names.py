"""verl finds LoRA's layers by the names that checkpoints have, whatever vLLM calls the method."""

import inspect

import pytest
import verl  # noqa: F401  (connects the plugin)
from vllm.model_executor.models.utils import WeightsMapper


def test_names_keep_their_layers_apart():
    from verl.utils.vllm import utils

    if not hasattr(WeightsMapper, "get_unstacked_mapper"):
        pytest.skip("this vLLM is older than the method")
    mapper = WeightsMapper(
        orig_to_new_prefix={"model.": "language_model."}, orig_to_new_stacked={".q_proj.": (".qkv_proj.", "q")}
    )
    assert "get_unstacked_mapper()" in inspect.getsource(utils.VLLMHijack)
    assert (
        mapper.get_unstacked_mapper()._map_name("model.layers.0.q_proj.weight")
        == "language_model.layers.0.q_proj.weight"
    )
