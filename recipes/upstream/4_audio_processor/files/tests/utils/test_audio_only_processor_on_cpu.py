# Copyright 2026 Bytedance Ltd. and/or its affiliates
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""From a row with audio to rollout and actor, with a processor that takes no images: a small Qwen2-Audio."""

import asyncio
import copy
import pathlib
import wave
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from omegaconf import OmegaConf
from tokenizers import Tokenizer, models, pre_tokenizers

from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.utils.dataset.audio_utils import decode_audio, decode_audios
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset
from verl.utils.dataset.rl_dataset import RLHFDataset
from verl.utils.model import extract_multi_modal_inputs, get_hf_auto_model_class
from verl.utils.tokenizer import build_multimodal_processor_inputs, hf_processor, is_audio_only_processor
from verl.workers.rollout.replica import TokenOutput

SAMPLING_RATE = 16000
SECONDS = 0.5
AUDIO_TOKENS = 12  # 50 mel frames, halved by a convolution and again by the pooling


def _processor(sampling_rate=SAMPLING_RATE):
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe = Tokenizer(models.BPE({letter: number for number, letter in enumerate(sorted(alphabet))}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, eos_token="<|im_end|>", pad_token="<|endoftext|>", additional_special_tokens=special
    )
    extractor = transformers.WhisperFeatureExtractor(feature_size=8, sampling_rate=sampling_rate)
    return transformers.Qwen2AudioProcessor(feature_extractor=extractor, tokenizer=tokenizer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a model's folder has beside its weights."""
    folder = tmp_path_factory.mktemp("qwen2_audio")
    _processor().save_pretrained(folder)
    transformers.Qwen2AudioConfig(architectures=["Qwen2AudioForConditionalGeneration"]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def processor(folder):
    return hf_processor(str(folder))


@pytest.fixture(scope="module")
def clip():
    """Half a second of a tone."""
    time = np.arange(int(SECONDS * SAMPLING_RATE)) / SAMPLING_RATE
    return (0.5 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)


@pytest.fixture
def row(clip):
    prompt = [{"role": "user", "content": "<audio>What is that?"}]
    return {"prompt": prompt, "audios": [{"array": clip, "sampling_rate": SAMPLING_RATE}]}


# 1. the processor


def test_an_audio_only_processor_is_kept(processor):
    assert type(processor).__name__ == "Qwen2AudioProcessor" and is_audio_only_processor(processor)
    assert not hasattr(processor, "get_rope_index")


@pytest.mark.parametrize("attribute", ["image_processor", "video_processor"])
def test_a_processor_of_several_modalities_is_none(attribute):
    assert is_audio_only_processor(SimpleNamespace(audio_token_id=7))
    assert not is_audio_only_processor(SimpleNamespace(audio_token_id=7, **{attribute: object()}))


def test_text_models_have_none(tmp_path):
    assert not is_audio_only_processor(None) and not is_audio_only_processor(_processor().tokenizer)


def test_it_is_given_neither_images_nor_videos(clip):
    given = {}

    def processor(**kwargs):
        given.update(kwargs)

    processor.audio_token_id = 7
    build_multimodal_processor_inputs(processor, text=["a"], images=None, videos=None, audio=[clip])
    assert given.keys() == {"text", "audio", "return_tensors"}


# 2. the model


@pytest.mark.parametrize(
    "config, class_name",
    [
        (transformers.Qwen2AudioConfig, "Qwen2AudioForConditionalGeneration"),
        (transformers.GraniteSpeechConfig, "GraniteSpeechForConditionalGeneration"),
    ],
)
def test_the_actor_has_a_language_model_head(config, class_name):
    auto_class = get_hf_auto_model_class(config(architectures=[class_name]))
    assert auto_class._model_mapping[config].__name__ == class_name


@pytest.mark.parametrize(
    "config, expected",
    [
        (transformers.Qwen2Config(architectures=["Qwen2ForCausalLM"]), transformers.AutoModelForCausalLM),
        (
            transformers.Qwen2VLConfig(architectures=["Qwen2VLForConditionalGeneration"]),
            transformers.AutoModelForImageTextToText,
        ),
    ],
)
def test_other_models_have_the_class_that_they_had(config, expected):
    assert get_hf_auto_model_class(config) is expected


# 3. the data


def test_audio_is_decoded_from_whatever_a_dataset_has(clip, tmp_path, monkeypatch):
    path = str(tmp_path / "tone.wav")
    with wave.open(path, "wb") as file:
        file.setparams((1, 2, SAMPLING_RATE, len(clip), "NONE", ""))
        file.writeframes((clip * 32767).astype("<i2").tobytes())

    def read(source, sampling_rate, timeout=None):  # in place of torchcodec or librosa
        assert sampling_rate == SAMPLING_RATE
        if isinstance(source, bytes):
            assert source == open(path, "rb").read()
            source = path
        with wave.open(source) as file:
            return np.frombuffer(file.readframes(len(clip)), "<i2").astype(np.float32) / 32767

    monkeypatch.setattr("transformers.audio_utils.load_audio_torchcodec", read)
    monkeypatch.setattr("transformers.audio_utils.load_audio_librosa", read)
    content = open(path, "rb").read()
    dicts = {"path": path, "bytes": None}, {"path": "tone.wav", "bytes": content}
    for audio in (path, pathlib.Path(path), content, *dicts):
        np.testing.assert_allclose(decode_audio(audio, SAMPLING_RATE), clip, atol=1e-4)
    listed = {"array": clip.tolist(), "sampling_rate": SAMPLING_RATE}
    assert decode_audio(listed, SAMPLING_RATE).dtype == np.float32
    np.testing.assert_array_equal(decode_audio(listed, SAMPLING_RATE), clip)


def test_what_is_a_waveform_stays_as_it_is(processor, clip):
    audios = [clip, clip.tolist(), torch.from_numpy(clip), (clip, SAMPLING_RATE)]
    assert all(ours is given for ours, given in zip(decode_audios(audios, processor), audios, strict=True))


def test_audio_of_other_processors_stays_as_it_is(clip):
    audios = ["clip.wav", {"array": clip}, b"RIFF", clip]
    for processor in (SimpleNamespace(audio_token_id=7, image_processor=object()), None):
        assert decode_audios(audios, processor) is audios


def test_audio_is_decoded_at_the_rate_of_the_feature_extractor(clip):
    audios = [{"array": clip, "sampling_rate": 24000}]
    np.testing.assert_array_equal(decode_audios(audios, _processor(24000))[0], clip)
    np.testing.assert_array_equal(decode_audios(audios, _processor(), {"sampling_rate": 24000})[0], clip)
    with pytest.raises(ValueError, match="24000 Hz, the model takes 16000"):
        decode_audios(audios, _processor())


def test_audio_that_cannot_be_used_is_named(clip):
    with pytest.raises(ValueError, match="None Hz, the model takes 16000"):
        decode_audio({"array": clip}, SAMPLING_RATE)
    with pytest.raises(ValueError, match="neither array nor bytes nor path, but url"):
        decode_audio({"url": "x"}, SAMPLING_RATE)
    with pytest.raises(ValueError, match="no sampling rate"):
        decode_audios(["clip.wav"], SimpleNamespace(audio_token_id=7))


def _dataset(processor, rows, **config):
    dataset = RLHFDataset.__new__(RLHFDataset)
    dataset.config = OmegaConf.create(config)
    dataset.processor, dataset.tokenizer = processor, processor.tokenizer
    dataset.prompt_key, dataset.image_key, dataset.video_key, dataset.audio_key = "prompt", "images", "videos", "audios"
    dataset.image_patch_size, dataset.apply_chat_template_kwargs, dataset.mm_processor_kwargs = 14, {}, {}
    dataset.tool_schemas, dataset.num_workers, dataset.filter_overlong_prompts = None, None, True
    dataset.max_prompt_length = config["max_prompt_length"]
    return dataset.maybe_filter_out_long_prompts(datasets.Dataset.from_list(rows))


def test_rows_are_filtered_by_the_tokens_that_their_audio_becomes(processor, row):
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "audio", "audio": 0}, {"type": "text", "text": "What is that?"}]}],
        add_generation_prompt=True,
        tokenize=False,
    )
    length = len(processor.tokenizer(text)["input_ids"]) - 1 + AUDIO_TOKENS
    row["audios"][0]["array"] = row["audios"][0]["array"].tolist()
    assert len(_dataset(processor, [row], max_prompt_length=length)) == 1
    assert len(_dataset(processor, [row], max_prompt_length=length - 1)) == 0


def test_sft_on_text_alone(processor, tmp_path):
    messages = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Hi."}]
    path = str(tmp_path / "rows.parquet")
    pd.DataFrame({"messages": [messages]}).to_parquet(path)
    tokenizer = copy.deepcopy(processor.tokenizer)
    tokenizer.chat_template = processor.chat_template
    config = {"pad_mode": "no_padding", "max_length": 512}
    item = MultiTurnSFTDataset(path, tokenizer, OmegaConf.create(config), processor)[0]
    text = processor.apply_chat_template(messages, tokenize=False)
    assert item["input_ids"].tolist() == tokenizer(text)["input_ids"]
    assert item["position_ids"].tolist() == list(range(len(item["input_ids"])))


# 4. the rollout


class _Server:
    """In place of the inference engine: keeps what it is given, and answers with three tokens."""

    async def generate(self, **request):
        self.request = request
        return TokenOutput(token_ids=[40, 41, 42], log_probs=None, stop_reason="completed")


def _rollout(processor, row):
    data = OmegaConf.create({})
    rollout = {"prompt_length": 512, "response_length": 8}
    server = _Server()
    loop = SingleTurnAgentLoop(
        trainer_config=SimpleNamespace(config=OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}})),
        server_manager=server,
        tokenizer=processor.tokenizer,
        processor=processor,
        dataset_cls=RLHFDataset,
        data_config=SimpleNamespace(config=data),
        hf_model_type="qwen2_audio",
    )
    dataset = RLHFDataset.__new__(RLHFDataset)
    dataset.processor = processor
    dataset.image_key, dataset.video_key, dataset.audio_key = "images", "videos", "audios"
    return loop.run({}, raw_prompt=dataset._build_messages(row, key="prompt")), server


def _actor_inputs(processor, output):
    worker = SimpleNamespace(processor=processor, tokenizer=processor.tokenizer, mm_processor_kwargs={})
    worker._get_mm_processor_kwargs = lambda audios: {}
    input_ids = torch.tensor([output.prompt_ids + output.response_ids])
    cls = getattr(AgentLoopWorker, "__ray_metadata__", None)
    cls = cls.modified_class if cls else AgentLoopWorker
    return cls._compute_multi_modal_inputs(worker, output, input_ids), input_ids


def test_rollout_and_actor_get_the_audio(processor, row, clip):
    async def run():
        coroutine, server = _rollout(processor, row)
        return await coroutine, server

    output, server = asyncio.run(run())
    assert output.prompt_ids.count(processor.audio_token_id) == AUDIO_TOKENS
    np.testing.assert_array_equal(server.request["audio_data"][0], clip)
    assert server.request["prompt_ids"] == output.prompt_ids

    inputs, input_ids = _actor_inputs(processor, output)
    expected = processor(text=[processor.audio_token], audio=[clip], sampling_rate=SAMPLING_RATE, return_tensors="pt")
    assert inputs.keys() == {"input_features", "feature_attention_mask"}
    torch.testing.assert_close(inputs["input_features"], expected["input_features"])

    # A forward pass matches audio tokens with features, and stops where they differ in number.
    tiny = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "num_mel_bins": 8}
    text = {"model_type": "qwen2", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 300}
    config = transformers.Qwen2AudioConfig(
        audio_config={"model_type": "qwen2_audio_encoder", "max_source_positions": 1500, **tiny},
        text_config=text,
        audio_token_index=processor.audio_token_id,
        architectures=["Qwen2AudioForConditionalGeneration"],
    )
    torch.manual_seed(0)
    model = get_hf_auto_model_class(config).from_config(config).eval()
    with torch.no_grad():
        heard = model(input_ids=input_ids, **extract_multi_modal_inputs([inputs])).logits
        inputs["input_features"] = torch.zeros_like(inputs["input_features"])
        deaf = model(input_ids=input_ids, **extract_multi_modal_inputs([inputs])).logits
    assert heard.shape == (1, input_ids.shape[1], 300) and not torch.equal(heard, deaf)


def test_a_prompt_without_audio_has_no_features(processor):
    async def run():
        coroutine, _ = _rollout(processor, {"prompt": [{"role": "user", "content": "Hello."}]})
        return await coroutine

    inputs, _ = _actor_inputs(processor, asyncio.run(run()))
    assert inputs == {}
