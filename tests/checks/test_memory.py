"""Estimates of memory: counted from the model itself, larger with what is larger, and mended by what they advise."""

import re

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig

from verl_leaf.checks.memory import GIB, estimates, model_size
from verl_leaf.cli import main
from verl_leaf.config import compose
from verl_leaf.models import FAMILIES


@pytest.fixture(scope="module", params=FAMILIES)
def counted(request, models):
    """A family, its tiny network and the size that is counted of it."""
    family = FAMILIES[request.param]
    config = AutoConfig.from_pretrained(models(request.param))
    network = family.load_hf_class()._from_config(config, attn_implementation=family.attn_implementation)
    layers = [
        layer
        for name, layer in network.named_modules()
        if name.rpartition(".")[2] in family.lora_targets and not re.fullmatch(family.lora_exclude, name)
    ]
    return family, network, model_size(network, config.get_text_config(), layers, rank=4)


def test_what_is_counted_is_what_the_model_has(counted):
    family, network, size = counted
    assert size.parameters == sum(weight.numel() for weight in network.parameters())
    assert size.layers == 2 and size.outside + size.layers * size.layer == size.parameters
    targets = LoraConfig(r=4, target_modules=list(family.lora_targets), exclude_modules=family.lora_exclude)
    adapted = get_peft_model(network, targets)
    assert size.lora == sum(weight.numel() for name, weight in adapted.named_parameters() if "lora_" in name)


def peaks(size, memory=80.0, *overrides):
    return {each.name: each for each in estimates(compose("leaf_speech", list(overrides)), size, memory)}


def test_the_advice_mends_it(counted):
    size = counted[2]
    large = type(size)(**{**vars(size), "parameters": 12_000_000_000, "lora": 200_000_000})
    one = "trainer.n_gpus_per_node=1"
    generating = peaks(large, 80.0, one)["one GPU, generating"]
    assert generating.gib > 80
    (remedy, *_) = [each for each in generating.remedies if "model_dtype" in each]
    assert peaks(large, 80.0, one, remedy)["one GPU, generating"].gib < 80
    fits = peaks(large, 80.0, "trainer.n_gpus_per_node=8", "actor_rollout_ref.rollout.gpu_memory_utilization=0.95")
    tight = fits["one GPU, generating"]
    assert tight.gib > 80 and tight.remedies[0].startswith("actor_rollout_ref.rollout.gpu_memory_utilization=")
    assert peaks(large, 80.0, "trainer.n_gpus_per_node=8", tight.remedies[0])["one GPU, generating"].gib <= 80


@pytest.mark.parametrize(
    "override, peak, larger",
    [
        ("data.max_response_length=400", "one GPU, updating", True),
        ("actor_rollout_ref.model.override_config.share_prompts=False", "one GPU, updating", True),
        ("actor_rollout_ref.model.enable_gradient_checkpointing=False", "one GPU, updating", True),
        ("actor_rollout_ref.actor.fsdp_config.param_offload=True", "one GPU, updating", False),
        ("actor_rollout_ref.rollout.gpu_memory_utilization=0.6", "one GPU, generating", True),
        ("trainer.nnodes=2", "one GPU, generating", False),
    ],
)
def test_a_setting_shows(counted, override, peak, larger):
    size = counted[2]
    big = type(size)(**{**vars(size), "parameters": 8 * GIB, "layers": 32, "hidden": 4096})
    base = "trainer.n_gpus_per_node=1"
    before, after = peaks(big, 80.0, base)[peak].gib, peaks(big, 80.0, base, override)[peak].gib
    assert (after > before) == larger and after != before


def test_the_doctor_says_whether_it_fits(models, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    model = str(models("qwen2_audio"))
    assert main(["doctor", model, "--gpus", "8"]) == 0
    assert "one GPU, updating" in capsys.readouterr().out
    assert main(["doctor", model, "--gpus", "1", "--memory", "2"]) == 1
    assert "2 GiB are too few: set " in capsys.readouterr().out
    assert main(["doctor", "--gpus", "8"]) == 2
