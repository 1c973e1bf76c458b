"""The actor's class under what a GPU run turns on: gradient checkpointing, bf16, LoRA, packed rows."""

import re

import pytest
import torch
from transformers import PreTrainedModel

from verl_leaf.doctor.selftest import actors
from verl_leaf.models import FAMILIES
from verl_leaf.models.actor import PositionTable

PROMPTS = ((1.2, 3), (2.5, 2))


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.mark.parametrize("share", [False, True])
def test_gradient_checkpointing_changes_nothing(family, share):
    rollouts = actors.rollouts(family, PROMPTS)
    results = []
    for checkpointing in (False, True):
        model = actors.build(family, checkpointing=checkpointing)
        assert model.is_gradient_checkpointing == checkpointing
        values = actors.response_log_probs(model, rollouts, share)
        results.append((values.detach(), actors.gradients(model, values)))
    (values, gradients), (checkpointed, recomputed) = results
    torch.testing.assert_close(checkpointed, values, rtol=0, atol=1e-6)
    assert actors.distance(recomputed, gradients) < 1e-5


def test_packed_and_plain_agree(family):
    model, rollouts = actors.build(family), actors.rollouts(family, PROMPTS)
    plain, packed = (actors.response_log_probs(model, rollouts, share) for share in (False, True))
    torch.testing.assert_close(packed, plain, rtol=0, atol=1e-5)
    assert actors.distance(actors.gradients(model, packed), actors.gradients(model, plain)) < 1e-5


def test_sequences_in_a_row_do_not_see_each_other(family):
    """verl packs them without padding: no mask, and positions that begin anew (workers/engine/fsdp/transformer_impl.py)."""
    model = actors.build(family).eval()
    first, second = torch.randint(10, actors.VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(9).repeat(2)[None]
    with torch.no_grad():
        packed = {"input_ids": torch.cat([first, second])[None], "position_ids": positions}
        both = model(**packed, use_cache=False).logits[0, 9:]
        alone = model(input_ids=second[None], use_cache=False).logits[0]
    torch.testing.assert_close(both, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("share", [False, True])
def test_bf16_is_near_fp32(family, share, checkpointing):
    rollouts = actors.rollouts(family, PROMPTS)
    results = []
    for dtype in (torch.float32, torch.bfloat16):
        model = actors.build(family, dtype, checkpointing=checkpointing)
        values = actors.response_log_probs(model, rollouts, share)
        gradients = actors.gradients(model, values)
        assert all("lora_" in name and not re.fullmatch(FAMILIES[family].lora_exclude, name) for name in gradients)
        results.append((values.detach(), gradients))
    (values, gradients), (rounded, their) = results
    assert rounded.dtype == torch.float32
    assert (rounded - values).abs().mean() < 0.03, "log-probabilities, of about -6"
    assert actors.distance(their, gradients) < 0.1


def test_nothing_in_the_encoder_is_a_unit_of_fsdp(family):
    """Each rank enters units as often as the others, but the encoder once, per clip or not at all."""
    from verl.utils.fsdp_utils import _select_fsdp2_wrap_targets

    model = actors.build(family)
    units = _select_fsdp2_wrap_targets(model, model._no_split_modules)
    names = {module: name for name, module in model.named_modules()}
    hub_name = FAMILIES[family].checkpoint_name  # transformers 5.9 and 5.10 differ in theirs
    found = {hub_name(names[unit].removeprefix("base_model.model.") + ".").removesuffix(".") for unit in units}
    language = hub_name("lm_head.").removesuffix(".lm_head.")
    parts = ("model.embed_tokens", "model.layers.0", "model.layers.1", "lm_head")
    assert found == {f"{language}.{part}" for part in parts}
    assert any(isinstance(module, PositionTable) for module in model.modules())


def test_attention_is_what_is_asked_for_where_that_exists(family):
    """verl asks for one for the whole model; Granite's Q-Former has only its own."""
    found = {
        type(module).__name__: module.config._attn_implementation
        for module in actors.build(family).modules()
        if isinstance(module, PreTrainedModel)
    }
    assert {name for name, attention in found.items() if attention != "sdpa"} <= {"Blip2QFormerModel"}
    assert found.get("Blip2QFormerModel") in (None, "eager")
