"""Rollouts of audio prompts: the agent loop ``speech``, and the manager whose workers store its features.

verl's own classes (verl/experimental/agent_loop, 0.9.1) cannot be used. The single-turn loop passes the sampling rate
to the processor twice, and treats a processor without images as one for text. The worker computes the features a second
time, from text that was decoded without special tokens and so has no audio placeholder. Here audio is decoded, and its
features are computed and stored, once per prompt for all of its rollouts.
"""

import asyncio
import functools
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import ray
import torch
import transfer_queue as tq
from pydantic import Field
from verl.experimental.agent_loop.agent_loop import (
    AgentLoopBase,
    AgentLoopOutput,
    DictConfigWrap,
    _agent_loop_registry,
    register,
)
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.profiler import simple_timer
from verl.utils.rollout_trace import rollout_trace_attr

from verl_leaf.common.names import FAILURE_REASON
from verl_leaf.models import family_of_processor
from verl_leaf.models.family import FEATURES_KEY
from verl_leaf.models.features import release, store
from verl_leaf.speech.prompt import render_prompt

# Columns of the dataset that are not read after a response has its reward. verl would write them into TransferQueue with every
# response, and each takes about half a percent of the CPU time of a step.
NOT_STORED = {"extra_info", "index", "tools_kwargs", "interaction_kwargs", "dummy_tensor"}


@dataclass
class SharedPrompt:
    """The state that the responses to a prompt share while they are generated; it travels with the columns of the row."""

    keeps_features: bool  # False in validation, where no actor needs them and a large batch must not hold them
    encoded: asyncio.Future | None = (
        None  # tokens, features and clips of the prompt; the executor's threads limit how many are made at once
    )


class SpeechOutput(AgentLoopOutput):
    """A response with the audio features of its prompt, of which verl stores only the key."""

    features: dict[str, Any] = Field(exclude=True)
    features_key: Any = Field(default=None, exclude=True)


@register("speech")
class SpeechAgentLoop(AgentLoopBase):
    """An agent loop with one turn: render the prompt, decode and encode its audio, generate.

    The trainer gets the prompt with every audio placeholder repeated once per audio token, as the actor's class expects
    it. vLLM gets one placeholder per clip, and expands it itself.
    """

    async def run(
        self, sampling_params: dict[str, Any], priority: int = 0, *, shared: SharedPrompt, raw_prompt: list[dict], **_
    ) -> SpeechOutput:
        prompt_ids, features, clips = await self._encode(shared, raw_prompt)
        metrics: dict[str, Any] = {}
        with simple_timer("generate_sequences", metrics):
            generated = await self.server_manager.generate(
                request_id=uuid4().hex,
                prompt_ids=_collapse_runs(
                    prompt_ids, family_of_processor(self.processor).audio_token_id(self.processor)
                ),
                # Skip detokenisation, because the text is not used.
                sampling_params={**sampling_params, "detokenize": False},
                audio_data=clips,
                priority=int(priority),
            )
        metrics["num_preempted"] = -1 if generated.num_preempted is None else generated.num_preempted
        response_ids = list(generated.token_ids)[: self.rollout_config.response_length]
        output = SpeechOutput(
            prompt_ids=prompt_ids,
            response_ids=response_ids,
            response_mask=[1] * len(response_ids),
            response_logprobs=list(generated.log_probs)[: len(response_ids)] if generated.log_probs else None,
            features=features,
            num_turns=2,
            metrics=metrics,
            extra_fields=generated.extra_fields,
        )
        output.extra_fields.update({"turn_scores": [], "tool_rewards": []})
        return output

    async def _encode(self, shared: SharedPrompt, messages: list[dict]):
        if shared.encoded is None:
            shared.encoded = asyncio.get_running_loop().run_in_executor(
                None, self._encode_now, list(messages), shared.keeps_features
            )
        return await shared.encoded

    def _encode_now(self, messages: list[dict], keep_features: bool):
        text, clips, _ = render_prompt(self.processor, messages, self.data_config)
        ids, features = family_of_processor(self.processor).encode(self.processor, text, clips)
        # Ray resolves the reference on the server, so the clips are in its store once and not for every response.
        return ids, features if keep_features else {}, ray.put(clips) if clips else None


# verl's registry entry of this loop, which a file in agent_loop_config_path may replace.
SPEECH = _agent_loop_registry["speech"]


class SpeechAgentLoopWorker(AgentLoopWorkerTQ.__ray_metadata__.modified_class):
    """A worker that stores the audio features of a prompt once, until verl has removed all of its rows."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.features_keys: dict[str, asyncio.Task] = {}  # prompt -> key of its features

    @functools.cached_property
    def _loop(self) -> SpeechAgentLoop:
        """The agent loop shared by all responses of this worker.

        verl lets Hydra build one per response. That takes 2.5 ms, and each warns that the model has no multi-turn prompts.
        """
        return SpeechAgentLoop(
            trainer_config=DictConfigWrap(self.config),
            server_manager=self.llm_client,
            tokenizer=self.tokenizer,
            processor=self.processor,
            hf_model_type=self.hf_model_type,
            dataset_cls=self.dataset_cls,
            data_config=DictConfigWrap(self.config.data),
        )

    async def generate_sequences(self, batch) -> None:
        await self._release_features()
        await super().generate_sequences(batch)

    async def _release_features(self) -> None:
        """Remove the features of prompts whose rows verl has all removed."""
        rows = (await tq.async_kv_list("train")).get("train", {})
        alive = {key.split("_")[0] for key in rows}
        gone = [self.features_keys.pop(uid) for uid in self.features_keys.keys() - alive]
        stored = await asyncio.gather(*gone, return_exceptions=True)
        await release(
            [key for key in stored if isinstance(key, torch.Tensor)]
        )  # an exception: storing failed, and so did the prompt

    async def _run_prompt(self, prompt: dict, sampling_params: dict, trajectory: dict, **kwargs) -> None:
        shared = SharedPrompt(keeps_features=not trajectory["validate"])
        await super()._run_prompt({**prompt, "shared": shared}, sampling_params, trajectory, **kwargs)

    async def _run_agent_loop(self, sampling_params: dict, trajectory: dict, *, agent_name: str, trace: bool, **kwargs):
        try:
            if _agent_loop_registry.get(agent_name) == SPEECH:
                with rollout_trace_attr(**trajectory, name="agent_loop", trace=trace):
                    output = await self._loop.run(sampling_params, **kwargs)
                    await self._agent_loop_postprocess(output, trajectory["validate"], **kwargs)
            else:
                await super()._run_agent_loop(sampling_params, trajectory, agent_name=agent_name, trace=trace, **kwargs)
        except Exception as error:  # verl logs the error and marks the prompt as failed
            await tq.async_kv_put(
                key=kwargs["uid"],
                partition_id="val" if trajectory["validate"] else "train",
                tag={FAILURE_REASON: f"{type(error).__name__}: {error}"},
            )
            raise

    async def _agent_loop_postprocess(self, output, validate, *, shared: SharedPrompt, **kwargs):
        if output.features:
            uid = kwargs["uid"]
            if uid not in self.features_keys:
                self.features_keys[uid] = asyncio.create_task(store(output.features))
            output.features_key = await self.features_keys[uid]
        # With all columns, so that verl's own call finds a reward and does not compute it again.
        await self._compute_score([output], kwargs)
        stored = {name: value for name, value in kwargs.items() if name not in NOT_STORED}
        return await super()._agent_loop_postprocess(output, validate, **stored)

    def _compute_multi_modal_inputs(self, output, input_ids) -> dict:
        return {} if output.features_key is None else {FEATURES_KEY: output.features_key}


class SpeechAgentLoopManager(AgentLoopManagerTQ):
    """The manager for ``rollout.agent.agent_loop_manager_class=verl_leaf.speech.agent_loop.SpeechAgentLoopManager``."""

    worker_class = SpeechAgentLoopWorker

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(self.worker_class)


def _collapse_runs(ids: list[int], token_id: int) -> list[int]:
    """Return ``ids`` with every run of ``token_id`` shortened to one."""
    return [token for token, before in zip(ids, [None, *ids], strict=False) if not token == before == token_id]
