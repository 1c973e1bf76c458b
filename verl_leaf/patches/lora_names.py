"""verl asks vLLM for the names of LoRA's layers by a method that vLLM has renamed.

verl/utils/vllm/utils.py VLLMHijack.hijack (0.9.1) calls ``WeightsMapper.get_unstacked_mapper`` when the actor's adapter comes.
In vLLM 0.31.0 (model_executor/models/utils.py) the method is called ``get_rename_mapper``, and no adapter reaches vLLM.
"""

from types import ModuleType

from verl_leaf.patches.base import expect


def _patch(module: ModuleType) -> str:
    mapper = expect(module, "WeightsMapper")
    renamed = getattr(mapper, "get_rename_mapper", None)
    if renamed is None or hasattr(mapper, "get_unstacked_mapper"):
        return "not needed: this vLLM has the method under the name by which verl calls it, or is older than both"
    mapper.get_unstacked_mapper = renamed
    return "active: verl calls WeightsMapper.get_unstacked_mapper, which is get_rename_mapper in this vLLM"


HOOKS = {"vllm.model_executor.models.utils": _patch}
