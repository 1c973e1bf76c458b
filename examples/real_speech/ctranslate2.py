"""Reading CTranslate2's ``model.bin`` (https://github.com/OpenNMT/CTranslate2, ``model_spec.py`` ``_serialize``).

Layout: version, name of the model's kind, revision, number of variables; for each variable its name, shape, type and
    values;
then aliases, which Whisper does not need.
"""

import math
from pathlib import Path

import numpy as np

from examples.real_speech.binary import BinaryFile

VERSION = 6
TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
"""Types of variables, in the order of their numbers."""


def read(path: Path, kind: str) -> dict[str, np.ndarray]:
    """Return the variables of a model by name; weights are ``[out, in]`` as in torch, in the type in which they are stored.

    Args:
        path: the file.
        kind: the kind of model that it must contain, such as ``WhisperSpec``.

    Raises:
        FormatError: the file is incomplete, has another version, or contains another kind of model.
    """
    file = BinaryFile(path)
    if (version := file.number("I", "the header")) != VERSION:
        raise file.error(f"is not a CTranslate2 model of version {VERSION}: its first number is {version}")
    if (found := _text(file, "the header")) != kind:
        raise file.error(f"contains a {found!r}, not a {kind!r}")
    file.number("I", "the header")  # the revision
    variables = {}
    for _ in range(file.number("I", "the header")):
        name = _text(file, "the name of a variable")
        what = f"variable {name!r}"
        shape = [file.number("I", what) for _ in range(file.number("B", what))]
        if (number := file.number("B", what)) >= len(TYPES):
            raise file.error(f"{what} has the unknown type {number}")
        dtype = np.dtype(TYPES[number])
        if (size := file.number("I", what)) != math.prod(shape) * dtype.itemsize:
            raise file.error(f"{what} has {size} bytes, but {dtype} {shape} needs {math.prod(shape) * dtype.itemsize}")
        variables[name] = file.array(dtype, math.prod(shape), what).reshape(shape)
    return variables


def _text(file: BinaryFile, what: str) -> str:
    return file.text("H", what).rstrip("\0")
