"""Estimates of memory: counted from the model itself, held to traces of true shapes, and mended by what they advise."""

import dataclasses
import logging

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, LlamaConfig

from tests.helpers.true_shapes import build_config, bytes_of_micro_batch
from verl_leaf.checks import memory
from verl_leaf.checks.memory import GIB, build_network, check_memory, estimates, lora_layers, model_size, pinned
from verl_leaf.cli import main
from verl_leaf.config import compose, micro_batch
from verl_leaf.models import FAMILIES


def size_of(family, config, rank=64):
    network = build_network(config, family)
    layers = lora_layers(network, family.lora_targets, family.lora_exclude)
    return model_size(network, list(layers.values()), rank)


@pytest.fixture(scope="module", params=FAMILIES)
def counted(request, models):
    """A family, its tiny network and the size that is counted of it."""
    family = FAMILIES[request.param]
    config = AutoConfig.from_pretrained(models(request.param))
    network = family.load_hf_class()._from_config(config, attn_implementation=family.attn_implementation)
    layers = lora_layers(network, family.lora_targets, family.lora_exclude)
    return family, network, model_size(network, list(layers.values()), rank=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("share, gpus", [(True, 1), (False, 8)])
def test_an_update_takes_what_a_trace_of_it_takes(name, share, gpus):
    """At the hub's widths, with few layers."""
    held_to_a_trace(name, share, gpus, layers=2)


@pytest.mark.thorough
@pytest.mark.parametrize("share, gpus", [(True, 1), (False, 1), (True, 8)])
@pytest.mark.parametrize("name", FAMILIES)
def test_an_update_of_all_layers_takes_what_its_trace_takes(name, share, gpus):
    held_to_a_trace(name, share, gpus, layers=None)


def held_to_a_trace(name, share, gpus, layers):
    family = FAMILIES[name]
    if family.missing:
        pytest.skip(family.missing)
    sharing = f"actor_rollout_ref.model.override_config.share_prompts={share}"
    config = compose("leaf_speech", [f"family={name}", f"trainer.n_gpus_per_node={gpus}", sharing])
    model = build_config(family, layers)
    size = size_of(family, model)
    estimated = GIB * sum(part.gib for part in memory._pass(config, size, updates=True))
    count, layout, _ = memory._micro_batch(config, size, updates=True)
    prompt, length = config.data.max_prompt_length, config.data.max_response_length
    traced = bytes_of_micro_batch(family, model, layout.rows, prompt, count, length)
    assert estimated == pytest.approx(traced, rel=0.15), (estimated / GIB, traced / GIB)


def test_what_is_counted_is_what_the_model_has(counted):
    family, network, size = counted
    assert size.parameters == sum(weight.numel() for weight in network.parameters())
    assert size.layers == 2 and size.outside + size.layers * size.layer == size.parameters
    targets = LoraConfig(r=4, target_modules=list(family.lora_targets), exclude_modules=family.lora_exclude)
    adapted = get_peft_model(network, targets)
    assert size.lora == sum(weight.numel() for name, weight in adapted.named_parameters() if "lora_" in name)


@pytest.mark.parametrize(
    "targets, exclude",
    [
        ("all-linear", None),
        ("All-Linear", ["k_proj", "layers.1.mlp.up_proj"]),
        (r".*\.(q|v)_proj", None),
        (["self_attn.q_proj", "down_proj", "proj"], r".*layers\.0.*"),
        (["model.layers.0.mlp.up_proj", "o_proj"], ["layers.1.self_attn.o_proj"]),
    ],
)
def test_layers_are_chosen_as_by_peft(targets, exclude):
    config = LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, vocab_size=32
    )
    network = build_network(config, None)
    found = set(lora_layers(network, targets, exclude))
    adapted = get_peft_model(network, LoraConfig(r=4, target_modules=targets, exclude_modules=exclude))
    chosen = {name for name, layer in adapted.get_base_model().named_modules() if hasattr(layer, "lora_A")}
    assert found == chosen and found


@pytest.mark.parametrize(
    "override", ["actor_rollout_ref.actor.fsdp_config.model_dtype=null", "actor_rollout_ref.model.target_modules=null"]
)
def test_settings_that_verl_accepts_are_no_error(models, override):
    check_memory(compose("leaf_speech", [f"actor_rollout_ref.model.path={models('qwen2_audio')}", override]))


def peaks(size, config, card=80.0):
    return {each.name: each for each in estimates(config, size, card)}


def leaf(*overrides):
    return compose("leaf_speech", list(overrides))


def test_pinned_blocks_are_powers_of_two():
    mib = 2**20
    assert pinned([96 * mib, 172 * mib, 86 * mib + 1]) == (128 + 256 + 128) * mib
    assert pinned([3 * mib] * 7) == 2 * 32 * mib, "six to a segment of 20 MiB"
    assert pinned([1000] * 3000) == 4 * mib


def test_qwen2_audio_pins_half_as_much_again_as_it_weighs():
    size = size_of(FAMILIES["qwen2_audio"], build_config(FAMILIES["qwen2_audio"]))
    assert size.parameters == 8_397_094_912 and size.lora == 159_907_840
    assert pinned([2 * tensor for tensor in size.tensors]) / GIB == pytest.approx(23.1, abs=0.3)
    host = peaks(size, compose("leaf_speech", ["trainer.n_gpus_per_node=8"]))["host memory per node"]
    assert host.parts[0].gib == pytest.approx(185, abs=2) and host.parts[1].gib == pytest.approx(31.3, abs=0.1)
    full = ["trainer.n_gpus_per_node=8", "actor_rollout_ref.model.lora_rank=0"]
    trained = peaks(dataclasses.replace(size, lora=0), compose("leaf_speech", full))["host memory per node"]
    assert trained.parts[0].gib == 0, "vLLM drops weights that it gets anew"


@pytest.mark.parametrize(
    "prompts, responses, gpus, tokens, expected",
    [
        (1, 8, 1, 200, 8),
        (1, 8, 8, 200, 1),
        (64, 16, 8, 200, 16),
        (64, 16, 8, 4096, 1),
        (6, 8, 1, 200, 24),
        (1, 8, 1, 9000, 1),
    ],
)
def test_micro_batches_are_bounded_by_tokens(prompts, responses, gpus, tokens, expected):
    assert micro_batch(prompts, responses, gpus, 1, 1024, tokens) == expected


def test_a_run_is_estimated_with_its_own_settings(models, caplog, monkeypatch):
    monkeypatch.setattr(memory, "gpu_memory", lambda: 4.0)
    here = [
        f"actor_rollout_ref.model.path={models('qwen2_audio')}",
        "trainer.n_gpus_per_node=1",
        "trainer.default_local_dir=/",
    ]
    small = ["actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=64"]
    with caplog.at_level(logging.WARNING, "verl.leaf"):
        check_memory(compose("leaf_speech", [*here, *small, "actor_rollout_ref.rollout.gpu_memory_utilization=0.5"]))
    assert [message.split(":")[0] for message in caplog.messages] == [
        "one GPU, generating",
        "one GPU, updating",
        "host memory per node",
        "disk per checkpoint",
    ]
    with pytest.raises(ValueError, match=r"one GPU, generating: about .* each has 4.0. Set actor_rollout_ref."):
        check_memory(compose("leaf_speech", [*here, "actor_rollout_ref.rollout.gpu_memory_utilization=0.95"]))
    large = ["++actor_rollout_ref.model.override_config.share_prompts=False", "data.max_response_length=1000000"]
    with pytest.raises(ValueError, match="one GPU, updating: about .*1 row.* of 1048576 tokens"):
        check_memory(
            compose("leaf_speech", [*here, *small, *large, "actor_rollout_ref.rollout.gpu_memory_utilization=0.1"])
        )
    monkeypatch.setattr(memory, "host_memory", lambda: 8.0)
    with pytest.raises(ValueError, match="host memory per node: about 13.* this one has 8.0"):
        check_memory(compose("leaf_speech", [*here, *small, "actor_rollout_ref.rollout.gpu_memory_utilization=0.1"]))


def test_the_advice_mends_it(counted):
    size = counted[2]
    large = type(size)(**{**vars(size), "parameters": 12_000_000_000, "lora": 200_000_000})
    one = "trainer.n_gpus_per_node=1"
    generating = peaks(large, leaf(one))["one GPU, generating"]
    assert generating.gib > 80
    (remedy, *_) = [each for each in generating.remedies if "model_dtype" in each]
    assert peaks(large, leaf(one, remedy))["one GPU, generating"].gib < 80
    fits = peaks(large, leaf("trainer.n_gpus_per_node=8", "actor_rollout_ref.rollout.gpu_memory_utilization=0.95"))
    tight = fits["one GPU, generating"]
    assert tight.gib > 80 and tight.remedies[0].startswith("actor_rollout_ref.rollout.gpu_memory_utilization=")
    assert peaks(large, leaf("trainer.n_gpus_per_node=8", tight.remedies[0]))["one GPU, generating"].gib <= 80


@pytest.mark.parametrize(
    "override, peak, larger",
    [
        ("data.max_response_length=400", "one GPU, updating", True),
        ("actor_rollout_ref.model.override_config.share_prompts=False", "one GPU, updating", True),
        ("actor_rollout_ref.model.enable_gradient_checkpointing=False", "one GPU, updating", True),
        ("actor_rollout_ref.actor.fsdp_config.param_offload=True", "one GPU, generating", False),
        ("actor_rollout_ref.actor.fsdp_config.optimizer_offload=True", "one GPU, generating", False),
        ("actor_rollout_ref.actor.fsdp_config.offload_policy=True", "one GPU, updating", False),
        ("actor_rollout_ref.actor.fsdp_config.offload_policy=True", "host memory per node", True),
        ("actor_rollout_ref.actor.fsdp_config.param_offload=True", "host memory per node", True),
        ("actor_rollout_ref.actor.fsdp_config.optimizer_offload=True", "host memory per node", True),
        ("actor_rollout_ref.rollout.gpu_memory_utilization=0.6", "one GPU, generating", True),
        ("trainer.nnodes=2 actor_rollout_ref.actor.fsdp_config.fsdp_size=-1", "one GPU, generating", False),
    ],
)
def test_a_setting_shows(counted, override, peak, larger):
    size = counted[2]
    big = type(size)(**{**vars(size), "parameters": 8 * GIB, "layers": 32, "hidden": 4096})
    base = "trainer.n_gpus_per_node=1"
    before, after = peaks(big, leaf(base))[peak].gib, peaks(big, leaf(base, *override.split()))[peak].gib
    assert (after > before) == larger and after != before


def test_only_fsdps_own_policy_leaves_the_actor_on_the_cpu_in_an_update(counted):
    def updating(*settings):
        overrides = [f"actor_rollout_ref.actor.fsdp_config.{setting}=True" for setting in settings]
        return [part.gib for part in peaks(counted[2], leaf(*overrides))["one GPU, updating"].parts]

    assert updating("param_offload", "optimizer_offload") == updating()
    assert updating("offload_policy") == [0, 0, *updating()[2:]]


def test_the_doctor_says_whether_it_fits(models, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    model = str(models("qwen2_audio"))
    assert main(["doctor", model, "--gpus", "8"]) == 0
    assert "one GPU, updating" in capsys.readouterr().out
    assert main(["doctor", model, "--gpus", "1", "--memory", "2"]) == 1
    assert "2 GiB are too few. Set " in capsys.readouterr().out
    assert main(["doctor", "--gpus", "8"]) == 2
