"""Adapters and merged models in the hub's layout, as plain transformers and PEFT see them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.helpers.families import EACH_FAMILY
from verl_leaf.checks.model import check_speech_model
from verl_leaf.cli import main
from verl_leaf.models import FAMILIES
from verl_leaf.runs.checkpoints.adapter import export_adapter
from verl_leaf.runs.checkpoints.weights import trained_weights

IDS = torch.arange(10, 30)[None]


@pytest.fixture(scope="module", params=EACH_FAMILY)
def model(request, models):
    """Family, its folder, and the plain class of transformers."""
    family = FAMILIES[request.param]
    return family, models(request.param), getattr(transformers, family.architectures[-1])


@pytest.fixture(scope="module", params=[False, True], ids=["lora", "rslora"])
def adapted(request, model, tmp_path_factory):
    """An adapter with the names that PEFT itself gives its weights, and the logits of the model with it.

    Its scale is ``alpha / r``, or ``alpha / sqrt(r)`` of a rank-stabilised one.
    """
    family, folder, plain = model
    torch.manual_seed(0)
    network = get_peft_model(
        load(plain, folder),
        LoraConfig(
            r=4,
            lora_alpha=8,
            use_rslora=request.param,
            target_modules=list(family.lora_targets),
            exclude_modules=family.lora_exclude,
            task_type="CAUSAL_LM",  # as verl has it
            init_lora_weights=False,
        ),
    )
    adapter = tmp_path_factory.mktemp("adapter")
    network.peft_config["default"].base_model_name_or_path = str(folder)
    network.save_pretrained(adapter)
    return adapter, logits(network)


def load(plain, folder):
    return plain.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def logits(network):
    network = network.eval().get_base_model() if isinstance(network, PeftModel) else network.eval()
    with torch.no_grad():
        # The whole model of Qwen's Omni models has a forward pass in its parts alone.
        return getattr(network, "thinker", network)(input_ids=IDS).logits


def test_a_merged_model_is_the_model_with_its_adapter(model, adapted, tmp_path):
    family, folder, plain = model
    adapter, expected = adapted
    run = tmp_path / "run"
    shutil.copytree(adapter, run / "adapter")
    assert main(["export", str(run), "--out", str(tmp_path / "out"), "--merged"]) == 0
    network = load(plain, tmp_path / "out")
    torch.testing.assert_close(logits(network), expected, rtol=0, atol=1e-4)
    assert not torch.allclose(logits(load(plain, folder)), expected, rtol=0, atol=1e-2)
    with (
        safe_open(folder / "model.safetensors", "pt") as before,
        safe_open(tmp_path / "out/model.safetensors", "pt") as after,
    ):
        assert set(before.keys()) == set(after.keys())
        changed = {name for name in before.keys() if not torch.equal(before.get_tensor(name), after.get_tensor(name))}
    layers = family.checkpoint_name("lm_head.").removesuffix("lm_head.") + "model.layers."
    assert changed == {name for name in changed if name.startswith(layers)} and len(changed) == 2 * len(
        family.lora_targets
    )
    transformers.AutoProcessor.from_pretrained(tmp_path / "out")


def test_weights_of_several_files(model, adapted, tmp_path):
    family, folder, _ = model
    shards = shutil.copytree(folder, tmp_path / "model")
    tensors = load_file(shards / "model.safetensors")
    (shards / "model.safetensors").unlink()
    names = sorted(tensors)
    places = {name: f"model-0000{1 + (index % 2)}-of-00002.safetensors" for index, name in enumerate(names)}
    for file in set(places.values()):
        save_file({name: tensors[name].bfloat16() for name in names if places[name] == file}, shards / file)
    (shards / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for file in adapted[0].iterdir():
        shutil.copy(file, shards)
    with pytest.raises(
        ValueError, match="adapter: the model folder contains a LoRA adapter: .*verl-leaf merge .*model --out FOLDER"
    ):
        check_speech_model(str(shards))
    assert main(["merge", str(shards), "--out", str(tmp_path / "out")]) == 0
    check_speech_model(str(tmp_path / "out"))
    assert json.loads((tmp_path / "out/config.json").read_text()).get("has_lora_adapter", False) is False
    merged = {
        name: tensor for file in set(places.values()) for name, tensor in load_file(tmp_path / "out" / file).items()
    }
    assert merged.keys() == tensors.keys() and all(tensor.dtype == torch.bfloat16 for tensor in merged.values())
    assert sum(not torch.equal(merged[name], tensors[name].bfloat16()) for name in names) == 2 * len(
        family.lora_targets
    )


def test_an_adapter_with_the_names_of_the_hub_loads_in_plain_peft(model, adapted, tmp_path):
    """Written so by verl_leaf.runs.checkpoints, for vLLM; Granite Speech 3.3's own even lacks the prefix."""
    family, folder, plain = model
    adapter, expected = adapted
    tensors = load_file(adapter / "adapter_model.safetensors")
    with safe_open(folder / "model.safetensors", "pt") as file:
        renamed = set(file.keys()) != set(load(plain, folder).state_dict())
    for prefix in ("base_model.model.", ""):
        shutil.copytree(adapter, tmp_path, dirs_exist_ok=True)
        named = {
            prefix + family.checkpoint_name(name.removeprefix("base_model.model.")): tensor
            for name, tensor in tensors.items()
        }
        save_file(named, tmp_path / "adapter_model.safetensors", metadata={"format": "pt"})
        # Without it, transformers gives PEFT the names only if it gives the model's weights other ones, as it does from 5.10.
        if prefix or renamed:
            network = PeftModel.from_pretrained(load(plain, folder), tmp_path)
            torch.testing.assert_close(logits(network), expected, rtol=0, atol=1e-4)
        assert main(["export", str(wrap(tmp_path)), "--out", str(tmp_path / f"out{prefix}"), "--merged"]) == 0
        torch.testing.assert_close(logits(load(plain, tmp_path / f"out{prefix}")), expected, rtol=0, atol=1e-4)


def wrap(adapter: Path) -> Path:
    """A run of which an adapter is all that there is."""
    run = adapter / "run"
    shutil.rmtree(run, ignore_errors=True)
    (run / "adapter").mkdir(parents=True)
    for file in adapter.glob("adapter_*"):
        shutil.copy(file, run / "adapter")
    return run


def test_a_step_that_is_saved_again_gets_the_new_adapter(task, tmp_path):
    (tmp_path / "lora_train_meta.json").write_text('{"r": 2, "lora_alpha": 4, "task_type": "CAUSAL_LM"}')
    (tmp_path / "fsdp_config.json").write_text('{"world_size": 1}')
    adapter = tmp_path / "step/adapter"
    for value in (1.0, 2.0):
        weights = {"base_model.model.q_proj.lora_A.default.weight": torch.full((2, 4), value)}
        torch.save(weights, tmp_path / "model_world_size_1_rank_0.pt")
        export_adapter(tmp_path, adapter, base_model=str(task / "model"), target_modules=["q_proj"])
        (tensor,) = load_file(adapter / "adapter_model.safetensors").values()
        assert (tensor == value).all() and list(adapter.parent.iterdir()) == [adapter]
        (adapter / "of_the_first").touch()
    assert main(["export", str(wrap(adapter)), "--out", str(adapter)]) == 2, "what is there stays"


def test_a_checkpoint_runs_no_program(tmp_path):
    class Program:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "fsdp_config.json").write_text('{"world_size": 1}')
    torch.save({"weight": Program()}, tmp_path / "model_world_size_1_rank_0.pt")
    with pytest.raises(ValueError, match="rank_0.pt is damaged, or contains objects other than tensors"):
        trained_weights(tmp_path, None)
    assert not (tmp_path / "ran").exists()


def test_what_cannot_be_merged_is_said(task, tmp_path, capsys):
    family, folder = FAMILIES["qwen2_audio"], task / "model"
    run = tmp_path / "run"

    def attempt(message, **options):
        shutil.rmtree(run, ignore_errors=True)
        config = LoraConfig(r=2, target_modules=["q_proj"], base_model_name_or_path=str(folder), **options)
        config.save_pretrained(run / "adapter")
        weights = {
            f"base_model.model.{layer}.lora_{kind}.weight": torch.zeros(shape)
            for kind, shape in (("A", (2, 128)), ("B", (128, 2)))
        }
        save_file(weights, run / "adapter/adapter_model.safetensors")
        assert main(["export", str(run), "--out", str(tmp_path / "out"), "--merged"]) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists() and not list(tmp_path.glob("*.partial*"))

    layer = "language_model.model.layers.9.self_attn.q_proj"
    attempt("1 of its weights belong to layers that")
    layer = "language_model.model.layers.0.self_attn.k_proj"
    attempt("has shape (64, 128) in the model but (128, 128) in the adapter")
    attempt("adapter_config.json has use_dora=True, but only plain LoRA can be merged", use_dora=True)
    folder = shutil.copytree(folder, tmp_path / "sent")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"w": "../above.safetensors"}}')
    attempt("names '../above.safetensors', which is not a file of the folder")
    shutil.rmtree(run)
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 2
    assert "contains no adapter" in capsys.readouterr().err
    assert main(["merge", str(folder), "--out", str(tmp_path / "out")]) == 2
    assert "there is nothing to merge" in capsys.readouterr().err
    assert main(["merge", str(folder), "--out", str(tmp_path)]) == 2
    assert "exists. Delete it, or choose another --out" in capsys.readouterr().err
    assert family.checkpoint_name("x.y") == "x.y"
