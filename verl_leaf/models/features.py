"""Audio features in verl's TransferQueue, stored once per prompt and once per later clip.

verl stores the inputs of the actor's encoder with every row, and so n times for the n rollouts of a prompt
(verl/trainer/ppo/v1/agent_loop_tq.py _agent_loop_postprocess, 0.9.1). Here a row contains keys, one of its prompt and
one of each clip that a tool returned, with which the actor's model fetches the features. The queue is imported only
when it is used, because the models also run without it.
"""

import uuid

import torch
from torch.nn import functional as F

PARTITION = "audio_features"


async def store(features: dict[str, torch.Tensor]) -> torch.Tensor:
    """Put the features of ``Family.encode`` into the queue, and return their key, uint8 ``[1, 16]``."""
    import transfer_queue as tq

    key = uuid.uuid4()
    await tq.async_kv_put(key=key.hex, partition_id=PARTITION, fields=features)
    return torch.frombuffer(bytearray(key.bytes), dtype=torch.uint8)[None]


async def release(keys: list[torch.Tensor]) -> None:
    """Remove features from the queue."""
    import transfer_queue as tq

    if keys:
        await tq.async_kv_clear(keys=[name for key in keys for name in _names(key)], partition_id=PARTITION)


class FeatureCache:
    """A cache of the features that a model fetched last, because rows of a prompt come together, often in two micro-batches."""

    def __init__(self) -> None:
        self._features: dict[str, dict[str, torch.Tensor]] = {}

    def fetch(self, keys: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        """Return the features of a micro-batch, given the keys of its audio in order, uint8 ``[keys, 16]``.

        The tensors are on the keys' device. Equal keys have the same dictionary.
        """
        names = _names(keys)
        known = self._features
        self._features = {name: known[name] if name in known else _get(name) for name in dict.fromkeys(names)}
        here = {
            name: {feature: tensor.to(keys.device) for feature, tensor in features.items()}
            for name, features in self._features.items()
        }
        return [here[name] for name in names]

    def hold(self, rows: list[dict[str, torch.Tensor]]) -> torch.Tensor:
        """Hold the features of some rows for a model that is called without a queue, until it fetches others.

        Return their keys, uint8 ``[rows, 16]``, for which :meth:`fetch` returns the same dictionaries.
        """
        names = {id(row): uuid.uuid4() for row in rows}
        self._features = {names[id(row)].hex: row for row in rows}
        keys = bytearray(b"".join(names[id(row)].bytes for row in rows))
        return torch.frombuffer(keys, dtype=torch.uint8).view(-1, 16)


def concatenate(rows: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the features of all rows joined along the first axis, padded with zeros to the same width."""
    joined = {}
    for feature in rows[0]:
        tensors = [features[feature] for features in rows]
        if tensors[0].dim() > 1:
            width = max(tensor.shape[-1] for tensor in tensors)
            tensors = [F.pad(tensor, (0, width - tensor.shape[-1])) for tensor in tensors]
        joined[feature] = torch.cat(tensors)
    return joined


def _get(name: str) -> dict[str, torch.Tensor]:
    import transfer_queue as tq

    stored = tq.kv_batch_get(keys=[name], partition_id=PARTITION)
    return {feature: stored[feature][0] for feature in stored.keys()}


def _names(keys: torch.Tensor) -> list[str]:
    return [bytes(key).hex() for key in keys.tolist()]
