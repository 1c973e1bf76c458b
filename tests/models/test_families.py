"""What every family promises: lengths foretold, a micro-batch as each row alone, LoRA in the language model, a fit config."""

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from verl.workers.engine.fsdp.utils import unfuse_moe_params

from tests.helpers import PROJECT
from verl_leaf.checks.model import check_speech_model
from verl_leaf.cli import main
from verl_leaf.models import FAMILIES, family_of_processor, features
from verl_leaf.models.whisper import WhisperActor, without_padding


@pytest.fixture(scope="session", params=FAMILIES)
def folder(request, models) -> Path:
    return models(request.param)


@pytest.fixture(scope="session")
def loaded(folder):
    """Family, processor and the class that the actor trains."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    family = family_of_processor(processor)
    model = family.load_hf_class().from_pretrained(
        folder, dtype=torch.float32, attn_implementation=family.attn_implementation
    )
    return family, processor, model


def prompt(processor) -> str:
    content = [{"type": "audio"}, {"type": "text", "text": "Translate into German."}]
    return processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)


def clips(*seconds):
    generator = np.random.default_rng(0)
    return [generator.normal(size=int(16000 * length)).astype(np.float32) / 9 for length in seconds]


def transformers_class(model) -> type:
    return next(each for each in type(model).__mro__ if each.__module__.startswith("transformers."))


def test_a_prompt_has_the_length_that_is_foretold(loaded):
    family, processor, _ = loaded
    text = prompt(processor)
    for clip in clips(*(length for length in (0.1, 0.55, 1, 3.21, 7, 29.99, 31, 65) if length < family.max_seconds)):
        ids, inputs = family.encode(processor, text, [clip])
        tokens = ids.count(family.audio_token_id(processor))
        assert tokens == family.audio_tokens(processor, len(clip)) >= family.min_audio_tokens
        assert family.prompt_length(processor, text, [len(clip)]) == len(ids)
        assert "input_features" in inputs
    for samples in (1, 160, 256, 257, 320, 321, 481):  # none ends in an error of the extractor
        tokens = family.audio_tokens(processor, samples)
        if tokens >= family.min_audio_tokens:
            ids, _ = family.encode(processor, text, [np.zeros(samples, np.float32)])
            assert ids.count(family.audio_token_id(processor)) == tokens
    if family.max_clips:
        with pytest.raises(ValueError, match=f"2 audio clips, but {family.model_type} supports {family.max_clips}"):
            family.prompt_length(processor, text + text, [16000, 16000])


def test_a_micro_batch_gives_what_each_row_gives_alone(loaded, monkeypatch):
    """In training mode, in which no dropout and no BatchNorm may tell a row from itself."""
    family, processor, model = loaded
    encoded = [family.encode(processor, prompt(processor), [clip]) for clip in clips(1, 3, 0.6)]
    with torch.no_grad():
        alone = [model.eval()(input_ids=torch.tensor([ids]), **inputs).logits[0] for ids, inputs in encoded]
    rows = [0, 1, 2, 0]
    longest = max(len(ids) for ids, _ in encoded)
    ids = torch.tensor([[0] * (longest - len(encoded[row][0])) + encoded[row][0] for row in rows])
    mask = torch.tensor([[0] * (longest - len(encoded[row][0])) + [1] * len(encoded[row][0]) for row in rows])
    monkeypatch.setattr(model.feature_cache, "fetch", lambda keys: [encoded[row][1] for row in keys])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    batch = model.train()(input_ids=ids, attention_mask=mask, position_ids=positions, features_key=rows).logits
    for row, logits in zip(rows, batch, strict=True):
        torch.testing.assert_close(logits[-len(alone[row]) :], alone[row], rtol=0, atol=2e-5)
    assert (batch[..., model.config.audio_token_id] == -1e4).all()


def test_the_encoder_leaves_out_what_no_clip_reaches_and_nothing_changes(loaded, folder):
    family, processor, model = loaded
    if not isinstance(model, WhisperActor):
        pytest.skip("its encoder takes clips as they are")
    stock = transformers_class(model).from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    frames, positions = [], []
    for each in (model, stock):
        tower = getattr(each, "model", each).audio_tower
        tower.conv1.register_forward_hook(lambda layer, args, output: frames.append(args[0].shape[-1]))
        tower.layers[-1].register_forward_hook(lambda layer, args, output: positions.append(args[0].shape[1]))
    ids, inputs = family.encode(processor, prompt(processor), clips(1.3))
    whole_window = {name: F.pad(value, (0, 3000 - value.shape[-1])) for name, value in inputs.items()}
    with torch.no_grad():
        ours = model.eval()(input_ids=torch.tensor([ids]), **inputs).logits
        theirs = stock.eval()(input_ids=torch.tensor([ids]), **whole_window).logits
    theirs[..., model.config.audio_token_id] = -1e4
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    assert positions == [72, 1500]  # 65 of them heard, 50 a second
    assert frames == [144, 3000]  # 130 of them heard, 100 a second


def test_features_end_soon_after_the_longest_clip_and_the_frames_that_are_computed_are_the_same(loaded):
    family, processor, model = loaded
    if not isinstance(model, WhisperActor):
        pytest.skip("its extractor fills no window")
    for seconds in (0.1, 1.28, 1.3, 7, 29.96):  # 1.28 s are 128 frames, which nothing rounds up
        clip = clips(seconds)[0]
        _, inputs = family.encode(processor, prompt(processor), [clip])
        mel, mask = (value for name, value in inputs.items() if name != "input_ids")
        arguments = {"sampling_rate": 16000, "return_attention_mask": True, "return_tensors": "pt"}
        window = processor.feature_extractor([clip], **arguments)
        vllms_mel, vllms_mask = without_padding(window["input_features"], window["attention_mask"])
        heard = int(mask.sum())
        assert heard == int(vllms_mask.sum()) == -(-len(clip) // 160)
        for frames, each in ((mel, mask), (vllms_mel, vllms_mask)):
            reached = min(heard + 2, 3000)  # by the convolutions
            assert reached <= frames.shape[-1] == each.shape[-1] <= max(reached * 1.2, 24)
            torch.testing.assert_close(
                frames[..., :reached], window["input_features"][..., :reached], rtol=0, atol=1e-5
            )


def test_vllm_computes_features_of_what_is_heard_and_they_are_the_same(loaded, folder, monkeypatch):
    from vllm.config import ModelConfig
    from vllm.multimodal import MULTIMODAL_REGISTRY

    family, processor, model = loaded
    if not isinstance(model, WhisperActor):
        pytest.skip("its extractor fills no window")
    vllms = MULTIMODAL_REGISTRY.create_processor(ModelConfig(str(folder), dtype="float32", max_model_len=2048)).info
    lengths = []
    extractor = type(processor.feature_extractor)
    compute = extractor._torch_extract_fbank_features
    monkeypatch.setattr(
        extractor,
        "_torch_extract_fbank_features",
        lambda self, waveform, device: lengths.append(waveform.shape[-1]) or compute(self, waveform, device),
    )
    for seconds in ((0.1,), (1.3,), (29.99,), *(() if family.max_clips else ((0.4, 2.2),))):
        data = {"text": [prompt(processor) * len(seconds)], "audio": clips(*seconds)}
        found, expected = (
            dict(vllms.ctx.call_hf_processor(hf_processor, data, {"sampling_rate": 16000}))
            for hf_processor in (vllms.get_hf_processor(), processor)
        )
        mel, theirs = found.pop("input_features"), expected.pop("input_features")
        (mask,) = (found[name] for name in found if name in ("feature_attention_mask", "input_features_mask"))
        reached = min(int(mask.sum(dim=1).max()) + 2, 3000)
        assert mel.shape == (len(seconds), processor.feature_extractor.feature_size, 3000)
        torch.testing.assert_close(mel[..., :reached], theirs[..., :reached], rtol=0, atol=1e-6)
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
        shorter, window = lengths[-2:]
        assert window == 480000 >= shorter and (shorter <= 16000 * max(seconds) * 1.2 + 3000 or shorter == window)


def test_frames_beyond_the_window_are_refused_and_not_cut(loaded):
    family, processor, model = loaded
    if not isinstance(model, WhisperActor):
        pytest.skip("its encoder has no window of its own")
    ids, inputs = family.encode(processor, prompt(processor), clips(1.3))
    longer = {name: F.pad(value, (0, 3008 - value.shape[-1])) for name, value in inputs.items()}
    with pytest.raises((ValueError, RuntimeError), match="3000|1500"):
        model(input_ids=torch.tensor([ids]), **longer)


def test_lora_takes_the_language_model_alone_and_the_encoder_gets_no_gradient(loaded):
    family, processor, model = loaded
    taken = [
        name
        for name, _ in model.named_modules()
        if name.rpartition(".")[2] in family.lora_targets and not re.fullmatch(family.lora_exclude, name)
    ]
    assert len(taken) == 2 * len(family.lora_targets)
    inside = {module for layer in model.decoder_layers for module in layer.modules()}
    assert all(model.get_submodule(name) in inside for name in taken)
    model.requires_grad_(False)
    model.enable_input_require_grads()
    seen = []
    projector = next(
        module
        for name, module in model.named_modules()
        if name.rpartition(".")[2] in ("multi_modal_projector", "projector", "proj", "proj2")
    )
    hook = projector.register_forward_hook(lambda module, arguments, output: seen.append(output.requires_grad))
    ids, inputs = family.encode(processor, prompt(processor), clips(1))
    logits = model(input_ids=torch.tensor([ids]), **inputs).logits
    hook.remove()
    assert seen == [False] and logits.requires_grad


def test_checkpoint_names(folder, loaded):
    from safetensors import safe_open

    family, _, model = loaded
    with safe_open(folder / "model.safetensors", "pt") as file:
        stored = {name for name in file.keys() if not name.startswith(("talker.", "token2wav.", "code2wav."))}
    names = dict(unfuse_moe_params(model.state_dict().items()))  # files have each expert by itself
    assert {family.checkpoint_name(name) for name in names} == stored
    assert {family.checkpoint_name(name) for name in stored} == stored


@pytest.mark.parametrize(
    "change, message",
    [
        ({}, "This model can be trained."),
        ({"model_type": "whisper"}, "family: the supported families are qwen2_audio"),
        ({"architectures": ["Other"]}, "architecture: vLLM would load another class"),
        ({"quantization_config": {"quant_method": "fp8"}}, "weights: the actor cannot train quantised weights"),
    ],
)
def test_doctor_of_a_model_needs_its_config_alone(folder, tmp_path, monkeypatch, capsys, change, message):
    config = {**json.loads((folder / "config.json").read_text()), **change}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["doctor", str(tmp_path)]) == (1 if change else 0)
    printed = capsys.readouterr().out
    assert message in printed
    if not change:
        assert f"{2 * len(FAMILIES[config['model_type']].lora_targets)} layers" in printed
        with pytest.raises(ValueError, match="the recipe is for other"):
            check_speech_model(str(tmp_path), "other")


def test_doctor_of_a_model_whose_class_cannot_tie_its_embeddings(folder, tmp_path, capsys):
    """transformers' classes with a Whisper encoder have an output layer of their own, and vLLM's would have none."""
    config = json.loads((folder / "config.json").read_text())
    config.get("thinker_config", config)["text_config"]["tie_word_embeddings"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    tied = config["model_type"] != "granite_speech"
    assert main(["doctor", str(tmp_path)]) == (1 if tied else 0)
    assert ("text_config.tie_word_embeddings is true" in capsys.readouterr().out) == tied


def test_doctor_of_a_model_that_vllm_cannot_serve(folder, tmp_path, capsys):
    config = json.loads((folder / "config.json").read_text())
    if "thinker_config" in config:
        pytest.skip("what vLLM cannot serve is what the test above has")
    if "window_size" in config:
        config["window_size"] = 16
    else:
        config["audio_config"]["max_source_positions"] = 750
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["doctor", str(tmp_path)]) == 1
    assert "vLLM cannot serve such a model" in capsys.readouterr().out


def test_features_of_rows_join_on_the_first_axis(loaded):
    family, processor, _ = loaded
    one, other = (family.encode(processor, prompt(processor), [clip])[1] for clip in clips(1, 1))
    joined = features.concatenate([one, other])
    assert joined.keys() == one.keys() and not torch.equal(one["input_features"], other["input_features"])
    for name, value in joined.items():
        assert torch.equal(value, torch.cat([one[name], other[name]]))
        # Of a clip, or of its 100 frames a second if the clips' lengths are an input.
        frames = "audio_feature_lengths" in one and name == "input_features"
        assert len(one[name]) == (100 if frames else 1)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_a_folder_a_yaml_and_a_recipe(name):
    rooms = PROJECT / "verl_leaf"
    assert {file.name for file in (rooms / "models" / name).glob("*.py")} == {
        "__init__.py",
        "hf.py",
        "vllm.py",
        "tiny.py",
    }
    assert (rooms / f"config/family/{name}.yaml").is_file()
    assert any(f"FAMILY={name}" in file.read_text() for file in PROJECT.glob("recipes/*_leaf.sh"))


def test_nothing_asks_for_the_name_of_a_family():
    files = [file for room in ("verl_leaf", "examples") for file in (PROJECT / room).rglob("*.py")]
    outside = [file for file in files if not FAMILIES.keys() & set(file.relative_to(PROJECT).parts)]
    assert outside != files
    for file in outside:
        strings = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
        assert not FAMILIES.keys() & strings, file
