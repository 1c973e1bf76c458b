"""Reading GGUF, the file format of llama.cpp (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

A file contains a header, metadata, a description of each tensor, and the tensors. Weights are stored in blocks of 32 values
that share a scale.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from examples.real_speech.binary import BinaryFile

VERSIONS = (2, 3)
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Kinds of metadata that are one number, with their letters in :mod:`struct`."""
STRING, ARRAY = 8, 9
BLOCK = 32
"""Number of values in a block."""


def q8_0(blocks: np.ndarray) -> np.ndarray:
    """Return ``scale * value``, float32 ``[blocks, 32]``.

    Args:
        blocks: uint8 ``[blocks, 34]``: a float16 scale and 32 signed bytes.
    """
    return _halves(blocks, 1) * blocks[:, 2:].view(np.int8).astype(np.float32)


def q4_1(blocks: np.ndarray) -> np.ndarray:
    """Return ``scale * value + minimum``, float32 ``[blocks, 32]``.

    Args:
        blocks: uint8 ``[blocks, 20]``: a float16 scale, a float16 minimum and 16 bytes. The lower halves of the bytes
            are the values 0 to 15, the upper halves are the values 16 to 31.
    """
    scale, minimum = np.split(_halves(blocks, 2), 2, axis=1)
    packed = blocks[:, 4:]
    return scale * np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32) + minimum


def _halves(blocks: np.ndarray, count: int) -> np.ndarray:
    """Return the float16 numbers at the beginning of each block."""
    return np.ascontiguousarray(blocks[:, : 2 * count]).view("<f2").astype(np.float32)


@dataclass(frozen=True)
class Encoding:
    """How the values of a tensor are stored."""

    values: int
    """Number of values in a block."""
    bytes: int
    """Number of bytes in a block."""
    decode: Callable[[np.ndarray], np.ndarray]
    """From uint8 ``[blocks, bytes]`` to float32 ``[blocks, values]``."""


ENCODINGS = {
    0: Encoding(1, 4, lambda blocks: blocks.view("<f4")),
    1: Encoding(1, 2, lambda blocks: _halves(blocks, 1)),
    3: Encoding(BLOCK, 20, q4_1),
    8: Encoding(BLOCK, 34, q8_0),
}
"""The encodings that this reader knows, by their number: F32, F16, Q4_1 and Q8_0."""


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the metadata and the tensors of a file; tensors are float32, ``[out, in]`` as in torch.

    Raises:
        FormatError: the file is incomplete, is not GGUF, or has an unknown kind of metadata or tensor.
    """
    file = BinaryFile(path)
    if (magic := bytes(file.bytes(4, "the header"))) != b"GGUF":
        raise file.error(f"is not a GGUF file: it begins with {magic!r}, not with b'GGUF'")
    if (version := file.number("I", "the header")) not in VERSIONS:
        raise file.error(f"GGUF version {version} is not supported; it must be one of {VERSIONS}")
    tensors, entries = file.number("Q", "the header"), file.number("Q", "the header")
    metadata = {}
    for _ in range(entries):
        name = file.text("Q", "the metadata")
        metadata[name] = _value(file, file.number("I", "the metadata"), f"the metadata {name!r}")
    described = [_description(file) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", 32)
    first = -(-file.position // alignment) * alignment
    weights = {}
    for name, shape, encoding, offset in described:
        file.move_to(first + offset)
        count, rest = divmod(math.prod(shape), encoding.values)
        if rest:
            raise file.error(
                f"tensor {name!r} has {math.prod(shape)} values, which are not whole blocks of {encoding.values}"
            )
        blocks = file.array(np.uint8, count * encoding.bytes, f"tensor {name!r}").reshape(count, encoding.bytes)
        weights[name] = encoding.decode(blocks).reshape(shape)
    return metadata, weights


def _value(file: BinaryFile, kind: int, what: str) -> Any:
    if kind in NUMBERS:
        return file.number(NUMBERS[kind], what)
    if kind == STRING:
        return file.text("Q", what)
    if kind == ARRAY:
        kind, count = file.number("I", what), file.number("Q", what)
        return [_value(file, kind, what) for _ in range(count)]
    raise file.error(f"{what} has the unknown type {kind}")


def _description(file: BinaryFile) -> tuple[str, list[int], Encoding, int]:
    """Read a tensor's name, its shape in torch's order, its encoding, and its distance in bytes from the first."""
    name = file.text("Q", "the list of tensors")
    what = f"the description of tensor {name!r}"
    shape = [file.number("Q", what) for _ in range(file.number("I", what))][::-1]
    kind = file.number("I", what)
    if kind not in ENCODINGS:
        raise file.error(f"tensor {name!r} has the encoding {kind}; this reader knows {sorted(ENCODINGS)}")
    return name, shape, ENCODINGS[kind], file.number("Q", what)
