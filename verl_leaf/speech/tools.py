"""Tools that return audio, for the agent loop ``speech``: ``actor_rollout_ref.rollout.multi_turn.tool_config_path``."""

import asyncio
from abc import abstractmethod
from typing import Any

import numpy as np
from verl.tools.base_tool import BaseTool
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse


class AudioTool(BaseTool):
    """A tool whose reply is a clip.

    If :meth:`hear` raises an exception, its text is the reply, so that the model learns what was wrong with its call.
    """

    def __init__(self, config: dict, tool_schema: OpenAIFunctionToolSchema):
        super().__init__(config, tool_schema)
        self._of_rows: dict[str, dict] = {}  # call -> the row's arguments for it

    async def create(self, instance_id: str | None = None, *, create_kwargs: dict | None = None, **_):
        instance_id, response = await super().create(instance_id)
        self._of_rows[instance_id] = create_kwargs or {}
        return instance_id, response

    async def release(self, instance_id: str, **_) -> None:
        del self._of_rows[instance_id]

    @abstractmethod
    def hear(self, clips: list[np.ndarray], rate: int, **parameters: Any) -> np.ndarray:
        """Return the clip of the reply.

        Args:
            clips: all clips of the conversation so far, float32 ``[samples]``, mono.
            rate: sampling rate of the clips and of the reply in Hz.
            parameters: arguments of the model's call, and those in ``extra_info.tools_kwargs.NAME.create_kwargs`` of
                the row.

        Raises:
            ValueError: the call makes no sense.
        """

    async def execute(
        self, instance_id: str, parameters: dict[str, Any], *, agent_data, **_
    ) -> tuple[ToolResponse, float, dict]:
        rate = agent_data.mm_processor_kwargs["sampling_rate"]
        of_row = self._of_rows[instance_id]
        clip = await asyncio.to_thread(self.hear, list(agent_data.audio_data), rate, **parameters, **of_row)
        return ToolResponse(), 0.0, {"audio": [{"array": clip, "sampling_rate": rate}]}


class Crop(AudioTool):
    """The tool ``crop``, which returns the part of the first clip between two times."""

    def __init__(self, config: dict, tool_schema: OpenAIFunctionToolSchema | None):
        super().__init__(config, tool_schema or OpenAIFunctionToolSchema.model_validate(CROP))

    def hear(  # type: ignore[override]  # the arguments of the call have names of its own
        self, clips: list[np.ndarray], rate: int, *, start: float, end: float
    ) -> np.ndarray:
        seconds = len(clips[0]) / rate
        if not 0 <= start < end <= seconds:
            raise ValueError(f"start={start}, end={end}: must be in order, from 0 to {seconds:.2f} seconds")
        return clips[0][round(start * rate) : round(end * rate)]


_TIME = {"type": "number", "description": "seconds from the beginning of the clip"}
CROP = {
    "type": "function",
    "function": {
        "name": "crop",
        "description": "Listen to a part of the clip again.",
        "parameters": {"type": "object", "properties": {"start": _TIME, "end": _TIME}, "required": ["start", "end"]},
    },
}
