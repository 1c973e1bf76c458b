"""OpenRLHF imports what needs a GPU wherever it is imported, and its tests use none of that."""

import importlib.machinery
import importlib.util
import sys
import types

NOT_USED = {
    "flash_attn": (),
    "flash_attn.bert_padding": ("index_first_axis", "pad_input", "rearrange", "unpad_input"),
    "flash_attn.utils": (),
    "flash_attn.utils.distributed": ("all_gather",),
    "vllm": ("SamplingParams",),
    "vllm.inputs": ("TokensPrompt",),
    "vllm.utils": ("random_uuid",),
}


def leave_out() -> None:
    """Modules that can be imported and not used."""
    import transformers

    assert not transformers.utils.is_flash_attn_2_available()  # which transformers remembers
    for name, contents in NOT_USED.items():
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(dict.fromkeys(contents))
        sys.modules[name] = module


if importlib.util.find_spec("openrlhf") is not None:
    leave_out()
