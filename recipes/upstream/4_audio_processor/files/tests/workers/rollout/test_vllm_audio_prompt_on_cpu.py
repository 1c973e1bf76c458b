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
"""What vLLM is given for a prompt with audio: one placeholder per audio, and no second sampling rate."""

import asyncio
from types import SimpleNamespace

import pytest

pytest.importorskip("vllm")

from verl.workers.rollout.utils import (  # noqa: E402
    dedup_audio_tokens,
    drop_sampling_rate,
    get_vision_placeholder_token_ids,
)
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer  # noqa: E402

AUDIO = 7
AUDIO_ONLY = SimpleNamespace(audio_token_id=AUDIO)
VISION = SimpleNamespace(audio_token_id=AUDIO, image_token_id=8, image_processor=object())


def test_runs_of_audio_tokens_become_one():
    assert dedup_audio_tokens([1, 7, 7, 7, 2, 2, 7, 3], AUDIO_ONLY) == [1, 7, 2, 2, 7, 3]
    assert dedup_audio_tokens([], AUDIO_ONLY) == []


@pytest.mark.parametrize("processor", [VISION, None])
def test_other_models_are_left_alone(processor):
    assert dedup_audio_tokens([1, 7, 7], processor) == [1, 7, 7]
    assert drop_sampling_rate({"sampling_rate": 16000}, processor) == {"sampling_rate": 16000}


def test_audio_tokens_are_never_sampled():
    assert get_vision_placeholder_token_ids(AUDIO_ONLY) == [AUDIO]
    assert get_vision_placeholder_token_ids(VISION) == [8, AUDIO]


def _prompt_of(processor, **kwargs):
    """The prompt that the server hands to the engine."""
    given = {}

    async def generate(prompt, **_):
        given.update(prompt)
        yield SimpleNamespace(outputs=[])

    async def park(request_id):
        return None

    server = SimpleNamespace(
        engine=SimpleNamespace(generate=generate),
        config=SimpleNamespace(
            max_model_len=100,
            prompt_length=50,
            response_length=50,
            full_determinism=False,
            get=lambda name, default: default,
        ),
        model_config=SimpleNamespace(processor=processor),
        _disaggregation_role=None,
        lora_as_adapter=False,
        _park_until_admitted=park,
        _admitting=1,
        replica_rank=0,
        global_steps=0,
    )
    asyncio.run(vLLMHttpServer.generate(server, sampling_params={}, request_id="a", **kwargs))
    return given


def test_the_engine_gets_one_placeholder_and_no_sampling_rate():
    prompt = _prompt_of(
        AUDIO_ONLY,
        prompt_ids=[1, 7, 7, 2],
        audio_data=["clip"],
        mm_processor_kwargs={"sampling_rate": 16000, "truncation": False},
    )
    assert prompt["prompt_token_ids"] == [1, 7, 2] and prompt["multi_modal_data"] == {"audio": ["clip"]}
    assert prompt["mm_processor_kwargs"] == {"truncation": False}
