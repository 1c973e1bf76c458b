"""Agent loop managers for end-to-end tests, named by the tests' verl configuration."""

import os
import uuid

import torch
import transfer_queue as tq
from verl.experimental.agent_loop.tool_parser import FunctionCall, ToolParser

from verl_leaf.speech.agent_loop import SpeechAgentLoopManager, SpeechAgentLoopWorker


class RecordingWorker(SpeechAgentLoopWorker):
    """Worker that writes every training rollout to $ROLLOUT_RECORD: sample, log-probabilities, inputs, stored fields."""

    async def _agent_loop_postprocess(self, output, validate, **kwargs):
        await super()._agent_loop_postprocess(output, validate, **kwargs)
        if validate:
            return
        key = f"{kwargs['uid']}_{kwargs['session_id']}_0"
        stored = await tq.async_kv_batch_get(keys=[key], partition_id="train")
        record = {
            "prompt": output.prompt_ids,
            "response": output.response_ids,
            "log_probs": output.response_logprobs,
            "features": [audio.features for audio in output.audio],
            "mask": output.response_mask,
            "step": output.extra_fields["min_global_steps"],
            "stored": sorted(stored.keys()),
        }
        torch.save(record, os.path.join(os.environ["ROLLOUT_RECORD"], f"{uuid.uuid4().hex}.pt"))


class OtherAudioWorker(SpeechAgentLoopWorker):
    """Worker of the control: the actor gets silence although vLLM has heard the clip."""

    async def _agent_loop_postprocess(self, output, validate, **kwargs):
        for audio in output.audio:
            audio.features["input_features"] = torch.zeros_like(audio.features["input_features"])
        await super()._agent_loop_postprocess(output, validate, **kwargs)


@ToolParser.register("often")
class OftenParser(ToolParser):
    """For random models: every eighth token ends a turn, and every other turn calls the tool of tests/helpers/tools.yaml."""

    @property
    def stop_token_ids(self):
        return list(range(8, len(self.tokenizer), 8))

    async def extract_tool_calls(self, responses_ids, tools=None):
        call = FunctionCall(name="German", arguments='{"start": 0.1, "end": 0.6}')
        return "", [call] * (sum(responses_ids) % 2)


class RecordingManager(SpeechAgentLoopManager):
    worker_class = RecordingWorker


class OtherAudioManager(SpeechAgentLoopManager):
    worker_class = OtherAudioWorker
