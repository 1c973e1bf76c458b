"""What verl has saved of a training becomes a folder that plain transformers and PEFT load, with a card whose code runs."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from omegaconf import OmegaConf
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from verl.workers.engine.fsdp.utils import unfuse_moe_params

from tests.helpers import engines
from tests.helpers.families import EACH_FAMILY
from verl_leaf.cli import main
from verl_leaf.config import compose
from verl_leaf.evaluate.systems import System, parse_system
from verl_leaf.models import FAMILIES
from verl_leaf.runs.checkpoints.adapter import SaveAdapter
from verl_leaf.runs.checkpoints.merge import write_trained
from verl_leaf.runs.folder import RunFolder

STEP = "checkpoints/global_step_3"


def train(run: Path, family, model: Path, data: Path, rank: int) -> RunFolder:
    """A run whose step 3 verl has saved, with moved weights and without an adapter, as a kill would leave it."""
    folder = RunFolder(run)
    engine = engines.build_engine(model, family, share=True, precision=engines.FP32, lora_rank=rank)
    generator = torch.Generator().manual_seed(rank)
    with torch.no_grad():
        for weight in engine.module.parameters():
            if weight.requires_grad:
                local = weight.to_local()
                local += 0.02 * torch.randn(local.shape, generator=generator)
    engine.save_checkpoint(str(run / STEP / "actor"), global_step=3)
    (folder.checkpoints / "latest_checkpointed_iteration.txt").write_text("3")
    config = compose(
        "leaf_speech_cpu",
        [
            f"family={family.model_type}",
            f"actor_rollout_ref.model.path={model}",
            f"actor_rollout_ref.model.lora_rank={rank}",
            f"data.train_files=[{data}]",
            f"trainer.default_local_dir={folder.checkpoints}",
        ],
    )
    folder.config.parent.mkdir(parents=True)
    OmegaConf.save(config, folder.config)
    return folder


@pytest.fixture(scope="module", params=EACH_FAMILY)
def full(request, alone, models, task, tmp_path_factory):
    """A run that trains all weights, its family and its model."""
    family, model = FAMILIES[request.param], models(request.param)
    return (
        train(tmp_path_factory.mktemp("full") / "run", family, model, task / "data/train.parquet", rank=0),
        family,
        model,
    )


@pytest.fixture(scope="module")
def low_rank(alone, task, tmp_path_factory):
    """A LoRA run."""
    run = tmp_path_factory.mktemp("lora") / "run"
    return train(run, FAMILIES["qwen2_audio"], task / "model", task / "data/train.parquet", rank=16)


@pytest.fixture
def lora(low_rank, tmp_path):
    """A copy of the LoRA run, and its configuration with the paths of the copy."""
    run = RunFolder(shutil.copytree(low_rank.path, tmp_path / "run"))
    config = run.read_config()
    config.trainer.default_local_dir = str(run.checkpoints)
    return run, config


def trained_weights(run: RunFolder) -> dict[str, torch.Tensor]:
    weights = torch.load(run.path / STEP / "actor/model_world_size_1_rank_0.pt", weights_only=False)
    return {name: weight.to_local() if hasattr(weight, "to_local") else weight for name, weight in weights.items()}


def export(run: object, out: Path, *options: str) -> Path:
    assert main(["export", str(run), "--out", str(out), *options]) == 0
    return out


def card(folder: Path) -> tuple[dict, str, list[str]]:
    """Front matter, text and code of a model card."""
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text, re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_full_weights_are_exported(full, tmp_path):
    run, family, model = full
    out = export(run.path, tmp_path / "out")
    plain = getattr(transformers, family.architectures[-1])
    network = plain.from_pretrained(out, dtype=torch.float32)
    loaded = {family.checkpoint_name(name): weight for name, weight in unfuse_moe_params(network.state_dict().items())}
    moved = 0
    with safe_open(model / "model.safetensors", "pt") as before:
        for name, weight in unfuse_moe_params(trained_weights(run).items()):
            name = family.checkpoint_name(name)
            assert torch.equal(loaded[name], weight), name
            moved += not torch.equal(before.get_tensor(name), weight)
    assert moved > 50
    transformers.AutoProcessor.from_pretrained(out)
    merged = export(f"{run.path}@3", tmp_path / "merged", "--merged")
    assert {file.name: file.read_bytes() for file in merged.iterdir()} == {
        file.name: file.read_bytes() for file in out.iterdir()
    }
    assert parse_system(str(run.path)) == System("run", model=run.path / STEP / "model")
    written = load_file(run.path / STEP / "model/model.safetensors")
    assert all(torch.equal(weight, written[name]) for name, weight in load_file(out / "model.safetensors").items())


def test_the_card_of_a_model_loads_it(full, tmp_path, monkeypatch):
    run, family, model = full
    run.summary.write_text(
        json.dumps({"steps": 3, "adapter_step": None, "val": {"before": None, "after": {"bleu": 12.34, "reward": 0.5}}})
    )
    front, text, (load, vllm) = card(export(run.path, tmp_path / "out"))
    run.summary.unlink()
    assert front["library_name"] == "transformers" and front["pipeline_tag"] == "audio-text-to-text"
    assert "leaf" in front["tags"] and "lora" not in front["tags"]
    assert "base_model" not in front and f"`{model}`" in text, "a folder is not a name on the hub"
    assert "| `actor_rollout_ref.rollout.n` | 8 |" in text and "`spoken_german`" in text
    assert "| last validation | 12.3 | 0.500 |" in text
    monkeypatch.chdir(tmp_path / "out")
    names: dict = {}
    exec(load, names)
    assert type(names["model"]).__name__ == family.architectures[-1]
    assert type(names["processor"]).__name__ == family.processor_class
    compile(vllm, "README.md", "exec")
    assert 'LLM(".")' in vllm


def test_an_adapter_that_a_kill_has_prevented_is_exported_all_the_same(lora, task, tmp_path, monkeypatch):
    run, _ = lora
    out = export(run.path, tmp_path / "out")
    front, text, (load, other, vllm) = card(out)
    assert front["library_name"] == "peft" and {"lora", "leaf"} <= set(front["tags"])
    assert "## Scores" not in text
    monkeypatch.chdir(out)
    names: dict = {}
    exec(load, names)
    assert isinstance(names["model"], PeftModel)
    own = {
        name.replace("base_model.model.", ""): weight
        for name, weight in names["model"].state_dict().items()
        if "lora_" in name
    }
    expected = {
        name.replace("base_model.model.", ""): weight
        for name, weight in trained_weights(run).items()
        if "lora_" in name
    }
    assert own.keys() == expected.keys() and all(torch.equal(own[name], weight) for name, weight in expected.items())
    also: dict = {}
    exec(other, also)
    loaded = [weight for name, weight in also["model"].state_dict().items() if "lora_B" in name]
    assert len(loaded) == sum("lora_B" in name for name in expected) and all(weight.any() for weight in loaded)
    compile(vllm, "README.md", "exec")
    assert f'LLM("{task}/model", enable_lora=True, max_lora_rank=16)' in vllm


def test_the_base_model_has_moved(lora, task, tmp_path, monkeypatch, capsys):
    run, config = lora
    monkeypatch.chdir(task)
    config.actor_rollout_ref.model.path = "model"
    SaveAdapter(config)
    monkeypatch.chdir(tmp_path)
    written = json.loads((run.adapter_of(3) / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == str(task / "model"), "wherever one stands"
    shutil.copytree(task / "model", "elsewhere")
    base = lambda folder: json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]  # noqa: E731
    assert base(export(run.path, tmp_path / "moved", "--base", "elsewhere")) == str(tmp_path / "elsewhere")
    hub = export(run.path, tmp_path / "hub", "--base", "Qwen/Qwen2-Audio-7B")
    assert base(hub) == card(hub)[0]["base_model"] == "Qwen/Qwen2-Audio-7B"
    export(run.path, tmp_path / "merged", "--base", "elsewhere", "--merged")
    assert main(["export", str(run.path), "--out", str(tmp_path / "none"), "--merged", "--base", "gone"]) == 2
    assert "gone is neither a folder nor a model" in capsys.readouterr().err


def test_the_trainer_that_resumes_writes_the_missing_adapter(lora, tmp_path):
    run, config = lora
    stale = run.path / STEP / "model"
    stale.mkdir()
    config.trainer.resume_mode = "disable"
    SaveAdapter(config)
    assert not run.adapter_of(3).exists()
    config.trainer.resume_mode = "auto"
    SaveAdapter(config)
    weights = load_file(run.adapter_of(3) / "adapter_model.safetensors")
    assert len(weights) == sum("lora_" in name for name in trained_weights(run))
    assert not stale.exists(), "it was of weights that were saved here before"


def test_a_step_saved_again_with_full_weights_loses_its_adapter(lora):
    run, config = lora
    step = run.path / STEP
    SaveAdapter(config)
    assert run.adapter_of(3).exists()
    config.actor_rollout_ref.model.lora_rank = 0
    saving = SaveAdapter(config)
    saving.on_save(None, 3, str(step))
    assert not run.adapter_of(3).exists()
    (step / "actor/fsdp_config.json").unlink()  # as verl removes old checkpoints, or another strategy writes them
    run.adapter_of(3).mkdir()
    saving.on_save(None, 3, str(step))
    assert run.adapter_of(3).exists()


def test_a_checkpoint_that_was_cut_off_is_said(lora, tmp_path, capsys):
    run, _ = lora
    shard = run.path / STEP / "actor/model_world_size_1_rank_0.pt"
    shard.write_bytes(shard.read_bytes()[:1000])
    assert main(["export", str(run.path), "--out", str(tmp_path / "out")]) == 2
    assert re.search(f"export: {shard} cannot be read .*elete", capsys.readouterr().err)
    shutil.rmtree(run.path / "hydra")
    assert main(["export", str(run.path), "--out", str(tmp_path / "out")]) == 2
    assert "config.yaml is missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_tied_embeddings(tmp_path):
    """verl's checkpoint has them twice, the files on the hub once."""
    config = transformers.Qwen2Config(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    model = transformers.Qwen2ForCausalLM(config)
    model.save_pretrained(tmp_path / "model")
    with torch.no_grad():
        for weight in model.parameters():
            weight += 1
    (tmp_path / "actor").mkdir()
    (tmp_path / "actor/fsdp_config.json").write_text('{"world_size": 1}')
    assert "lm_head.weight" in model.state_dict()
    torch.save(model.state_dict(), tmp_path / "actor/model_world_size_1_rank_0.pt")
    (tmp_path / "out").mkdir()
    write_trained(str(tmp_path / "model"), tmp_path / "actor", tmp_path / "out")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert all(torch.equal(weight, loaded.state_dict()[name]) for name, weight in model.state_dict().items())
    weights = load_file(tmp_path / "model/model.safetensors")
    save_file({name: weights[name] for name in weights if "layers" in name}, tmp_path / "model/model.safetensors")
    with pytest.raises(
        ValueError, match="2 of its weights belong to layers that .* lacks, such as model.embed_tokens.weight"
    ):
        write_trained(str(tmp_path / "model"), tmp_path / "actor", tmp_path / "out")


def test_warm_restarts_need_an_adapter(task, tmp_path, capsys):
    data = [f"--{name}={task}/data/{name}.parquet" for name in ("train", "val")]
    where = [f"--run={tmp_path}/run", "--family=qwen2_audio", f"--model={task}/model", "--epochs=2", "--dry-run"]
    assert main(["train", *where, *data, "--", "actor_rollout_ref.model.lora_rank=0"]) == 2
    assert "EPOCHS=2 (--epochs): a warm restart starts from the previous epoch's adapter" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
