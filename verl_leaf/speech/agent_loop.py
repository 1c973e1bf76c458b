"""Rollouts of audio prompts: the agent loop ``speech``, and the manager whose workers store its features.

verl's own classes (verl/experimental/agent_loop, 0.9.1) cannot be used. The single-turn loop passes the sampling rate
to the processor twice, and treats a processor without images as one for text. The loop with tools drops the audio that
a tool returns. The worker computes the features a second time, from text that was decoded without special tokens and so
has no audio placeholder. Here audio is decoded, and its features are computed and stored, once per prompt for all of
its rollouts.
"""

import asyncio
import functools
import hashlib
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import numpy as np
import ray
import torch
import transfer_queue as tq
from pydantic import Field
from verl.experimental.agent_loop.agent_loop import (
    AgentLoopOutput,
    DictConfigWrap,
    ToolListWrap,
    _agent_loop_registry,
    register,
)
from verl.experimental.agent_loop.tool_agent_loop import AgentData, ToolAgentLoop
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ
from verl.utils.profiler import simple_timer
from verl.utils.rollout_trace import rollout_trace_attr

from verl_leaf.common.names import FAILURE_REASON
from verl_leaf.data.references import AudioError
from verl_leaf.models import family_of_processor
from verl_leaf.models.family import FEATURES_KEY
from verl_leaf.models.features import release, store
from verl_leaf.speech.prompt import answered, check_clips, render_prompt, render_reply

# Columns of the dataset that are not read after a response has its reward. verl would write them into TransferQueue with every
# response, and each takes about half a percent of the CPU time of a step.
NOT_STORED = {"extra_info", "index", "tools_kwargs", "interaction_kwargs", "dummy_tensor"}


@dataclass
class Audio:
    """Audio features, and the task that stores them in the queue; it starts with the first response that needs them."""

    features: dict[str, torch.Tensor]
    key: asyncio.Task | None = None


@dataclass(frozen=True)
class Encoded:
    """A prompt or a reply, encoded."""

    ids: list[int]  # tokens, with each audio placeholder repeated once per audio token
    audio: list[Audio]  # audio features: one entry, or none without audio and in validation
    clips: list[np.ndarray]  # waveforms
    stored: Any = None  # reference to the waveforms in Ray's store, or None without audio


@dataclass
class SharedPrompt:
    """The state that the responses to a prompt share while they are generated; it travels with the columns of the row."""

    keeps_features: bool  # False in validation, where no actor needs them and a large batch must not hold them
    encoded: asyncio.Future | None = None  # the executor's threads limit how many prompts are encoded at once
    later: dict[bytes, Audio] = field(default_factory=dict)  # audio from tools, by the digest of its waveform


class SpeechOutput(AgentLoopOutput):
    """A response with the features of its audio, of which verl stores only the keys."""

    # Features of the prompt's audio if it has any, then of each clip that a tool has returned.
    audio: list[Any] = Field(exclude=True)
    answer_ids: list[int] = Field(exclude=True)  # tokens of the model's last turn, which gets the reward
    features_keys: list[Any] = Field(default=[], exclude=True)  # keys of `audio`


@register("speech")
class SpeechAgentLoop(ToolAgentLoop):
    """An agent loop: render the prompt, decode and encode its audio, generate; again after each reply of a tool.

    Tools, the format of calls and the limits are those of verl's ``multi_turn``. A reply is a message of the user with
    the text that the tools return, and a clip if it is in ``audio`` of a tool's third return value
    (:class:`verl_leaf.speech.tools.AudioTool`). The trainer gets every audio placeholder repeated once per audio token,
    as the actor's class expects it. vLLM gets one placeholder per clip, and expands it itself.
    """

    async def run(
        self,
        sampling_params: dict[str, Any],
        priority: int = 0,
        *,
        shared: SharedPrompt,
        raw_prompt: list[dict],
        tools_kwargs: dict | None = None,
        **_,
    ) -> SpeechOutput:
        prompt = await self._encode(shared, raw_prompt)
        metrics: dict[str, Any] = {}
        talk = AgentData(
            messages=list(raw_prompt),
            image_data=[],
            video_data=[],
            audio_data=list(prompt.clips),
            mm_processor_kwargs={"sampling_rate": family_of_processor(self.processor).sampling_rate(self.processor)},
            metrics=metrics,
            request_id=uuid4().hex,
            tools_kwargs=tools_kwargs or {},
        )
        talk.prompt_ids = prompt.ids
        messages, audio, clips = list(raw_prompt), list(prompt.audio), prompt.stored
        mask: list[int] = []
        log_probs: list[float] = []
        while True:
            generated = await self._generate(talk, sampling_params, self.response_length - len(mask), clips, priority)
            said = list(generated.token_ids)[: self.response_length - len(mask)]
            talk.prompt_ids, talk.assistant_turns = talk.prompt_ids + said, talk.assistant_turns + 1
            mask += [1] * len(said)
            log_probs += list(generated.log_probs or ())[: len(said)]
            began = {name: talk.extra_fields[name] for name in ("min_global_steps",) if name in talk.extra_fields}
            talk.extra_fields |= generated.extra_fields | began
            reply = await self._reply(talk, said) if len(mask) < self.response_length else None
            if reply is None:
                break
            read = await asyncio.to_thread(self._encode_reply, shared, messages, reply, said, talk)
            if len(mask) + len(read.ids) >= self.response_length:
                break
            messages = answered(messages, reply)
            talk.audio_data += read.clips
            talk.prompt_ids, talk.user_turns = talk.prompt_ids + read.ids, talk.user_turns + 1
            mask += [0] * len(read.ids)
            if log_probs:
                log_probs += [0.0] * len(read.ids)
            audio += read.audio
            clips = talk.audio_data or None
        output = SpeechOutput(
            prompt_ids=prompt.ids,
            response_ids=talk.prompt_ids[len(prompt.ids) :],
            response_mask=mask,
            response_logprobs=log_probs or None,
            audio=audio,
            answer_ids=said,
            num_turns=talk.user_turns + talk.assistant_turns + 1,
            metrics=metrics,
            extra_fields=talk.extra_fields,
        )
        output.extra_fields.update({"turn_scores": [], "tool_rewards": talk.tool_rewards})
        return output

    async def _generate(self, talk: AgentData, sampling_params: dict[str, Any], tokens: int, clips, priority: int):
        placeholder = family_of_processor(self.processor).audio_token_id(self.processor)
        # Skip detokenisation, because the text is not used.
        sampling_params = {**sampling_params, "max_tokens": tokens, "detokenize": False}
        if self.tools and self.tool_parser.stop_token_ids:  # of formats whose calls do not end the turn
            of_user = sampling_params.get("stop_token_ids") or []
            sampling_params["stop_token_ids"] = [*of_user, *self.tool_parser.stop_token_ids]
        with simple_timer("generate_sequences", talk.metrics):
            generated = await self.server_manager.generate(
                request_id=talk.request_id,
                prompt_ids=_collapse_runs(talk.prompt_ids, placeholder),
                sampling_params=sampling_params,
                audio_data=clips,
                priority=int(priority),
            )
        preempted = -1 if generated.num_preempted is None else generated.num_preempted
        talk.metrics["num_preempted"] = max(preempted, talk.metrics.get("num_preempted", 0) + preempted)
        return generated

    async def _reply(self, talk: AgentData, said: list[int]) -> dict | None:
        """Call the tools that the model asked for, and return the message with their results, or None if the conversation ends."""
        enough = ((self.max_assistant_turns, talk.assistant_turns), (self.max_user_turns, talk.user_turns))
        if not self.tools or any(most and turns >= most for most, turns in enough):
            return None
        schemas = [tool.tool_schema for tool in self.tools.values()]
        content, talk.tool_calls = await self.tool_parser.extract_tool_calls(said, schemas)
        if not talk.tool_calls:
            return None
        talk.messages.append(self._build_assistant_message(content, talk))
        calls = talk.tool_calls[: self.max_parallel_calls]
        with simple_timer("tool_calls", talk.metrics):
            returned = await asyncio.gather(*(self._call_tool(call, talk.tools_kwargs, talk) for call in calls))
        audio: list[Any] = []
        texts: list[str] = []
        for response, reward, more in returned:
            audio += more.get("audio", [])
            texts += [response.text] if response.text else []
            talk.tool_rewards.append(reward)
        parts = [{"type": "audio", "audio": reference} for reference in audio]
        text = [{"type": "text", "text": "\n".join(texts)}] if texts else []
        reply = {"role": "user", "content": parts + text}
        talk.messages.append(reply)
        return reply

    async def _encode(self, shared: SharedPrompt, messages: list[dict]) -> Encoded:
        if shared.encoded is None:
            loop = asyncio.get_running_loop()
            shared.encoded = loop.run_in_executor(None, self._encode_now, list(messages), shared.keeps_features)
        return await shared.encoded

    def _encode_now(self, messages: list[dict], keep_features: bool) -> Encoded:
        text, clips, _ = render_prompt(self.processor, messages, self.data_config, self.tool_schemas)
        ids, features = family_of_processor(self.processor).encode(self.processor, text, clips)
        # Ray resolves the reference on the server, so the clips are in its store once and not for every response.
        stored = ray.put(clips) if clips else None
        audio = [Audio(features)] if features and keep_features else []
        return Encoded(ids, audio, clips if self.tools else [], stored)

    def _encode_reply(
        self, shared: SharedPrompt, messages: list[dict], reply: dict, said: list[int], talk: AgentData
    ) -> Encoded:
        """Encode the text and audio between an answer and the next."""
        family = family_of_processor(self.processor)
        try:
            text, clips = render_reply(self.processor, messages, reply, self.data_config, self.tool_schemas)
        except AudioError as error:  # the model called for this clip, so it is told what is wrong
            reply["content"] = [{"type": "text", "text": f"No audio: {str(error).partition('. ')[0]}"}]
            text, clips = render_reply(self.processor, messages, reply, self.data_config, self.tool_schemas)
        check_clips(family, len(talk.audio_data), len(clips))
        ids, features = family.encode(self.processor, text, clips)
        if said[-1:] == ids[:1]:  # the model has ended its turn itself
            ids = ids[1:]
        audio = []
        if features and shared.keeps_features:
            audio = [shared.later.setdefault(hashlib.sha256(clips[0]).digest(), Audio(features))]
        return Encoded(ids, audio, clips)


# verl's registry entry of this loop, which a file in agent_loop_config_path may replace.
SPEECH = _agent_loop_registry["speech"]


class SpeechAgentLoopWorker(AgentLoopWorkerTQ.__ray_metadata__.modified_class):
    """A worker that stores the audio features of a prompt once, until verl has removed all of its rows."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.features_keys: dict[str, list[asyncio.Task]] = {}  # prompt -> keys of its features and its responses'

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
            tools=ToolListWrap(self.tools),
        )

    async def generate_sequences(self, batch) -> None:
        await self._release_features()
        await super().generate_sequences(batch)

    async def _release_features(self) -> None:
        """Remove the features of prompts whose rows verl has all removed."""
        rows = (await tq.async_kv_list("train")).get("train", {})
        alive = {key.split("_")[0] for key in rows}
        gone = [task for uid in self.features_keys.keys() - alive for task in self.features_keys.pop(uid)]
        stored = await asyncio.gather(*gone, return_exceptions=True)
        # Instead of a key there is an exception if storing failed, and then the prompt has failed, too.
        await release([key for key in stored if isinstance(key, torch.Tensor)])

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
        if not isinstance(output, SpeechOutput):  # from a user's agent loop
            return await super()._agent_loop_postprocess(output, validate, **kwargs)
        output.features_keys = [await self._key(kwargs["uid"], audio) for audio in output.audio]
        # With all columns, and of the last answer; verl's own call finds the reward there and leaves it.
        judged = output.model_copy(update={"response_ids": output.answer_ids})
        await self._compute_score([judged], kwargs)
        output.reward_score = judged.reward_score
        stored = {name: value for name, value in kwargs.items() if name not in NOT_STORED}
        return await super()._agent_loop_postprocess(output, validate, **stored)

    def _key(self, uid: str, audio: Audio) -> asyncio.Task:
        """Return the task whose result is the key of these features."""
        if audio.key is None:
            audio.key = asyncio.create_task(store(audio.features))
            self.features_keys.setdefault(uid, []).append(audio.key)
        return audio.key

    def _compute_multi_modal_inputs(self, output, input_ids) -> dict:
        return {FEATURES_KEY: torch.cat(output.features_keys)} if output.features_keys else {}


class SpeechAgentLoopManager(AgentLoopManagerTQ):
    """The manager for ``rollout.agent.agent_loop_manager_class=verl_leaf.speech.agent_loop.SpeechAgentLoopManager``."""

    worker_class = SpeechAgentLoopWorker

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.agent_loop_workers_class = ray.remote(self.worker_class)


def _collapse_runs(ids: list[int], token_id: int) -> list[int]:
    """Return ``ids`` with every run of ``token_id`` shortened to one."""
    return [token for token, before in zip(ids, [None, *ids], strict=False) if not token == before == token_id]
