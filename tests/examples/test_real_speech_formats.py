"""The readers of GGUF and CTranslate2: small files that are written here, by the formats' descriptions."""

import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples.real_speech import ctranslate2, gguf
from examples.real_speech.binary import FormatError

F32, Q4_1, Q8_0, Q4_0 = 0, 3, 8, 2


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


ARCHITECTURE = [("general.architecture", 8, text("llama"))]


def gguf_file(path, tensors, metadata=ARCHITECTURE, alignment=32, magic=b"GGUF", version=3):
    """Write a file. ``tensors``: name, shape in torch's order, encoding, bytes; ``metadata``: name, type, bytes."""
    head = magic + struct.pack("<IQQ", version, len(tensors), len(metadata))
    head += b"".join(text(name) + struct.pack("<I", kind) + value for name, kind, value in metadata)
    data = b""
    for name, shape, kind, content in tensors:
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, len(data))
        data += content + bytes(-len(content) % alignment)
    path.write_bytes(head + bytes(-len(head) % alignment) + data)
    return path


halves = st.floats(-8, 8, width=16)


@settings(deadline=None)
@given(st.lists(st.tuples(halves, st.lists(st.integers(-128, 127), min_size=32, max_size=32)), min_size=1, max_size=4))
def test_q8_0_is_scale_times_value(blocks):
    stored = b"".join(struct.pack("<e32b", scale, *values) for scale, values in blocks)
    decoded = gguf.q8_0(np.frombuffer(stored, np.uint8).reshape(-1, 34))
    np.testing.assert_allclose(decoded, [[scale * value for value in values] for scale, values in blocks], rtol=1e-6)


@settings(deadline=None)
@given(
    st.lists(st.tuples(halves, halves, st.lists(st.integers(0, 15), min_size=32, max_size=32)), min_size=1, max_size=4)
)
def test_q4_1_is_scale_times_value_plus_minimum(blocks):
    stored = b"".join(
        struct.pack("<ee16B", scale, low, *(values[i] + 16 * values[i + 16] for i in range(16)))
        for scale, low, values in blocks
    )
    decoded = gguf.q4_1(np.frombuffer(stored, np.uint8).reshape(-1, 20))
    expected = [[scale * value + low for value in values] for scale, low, values in blocks]
    np.testing.assert_allclose(decoded, expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def plain():
    """Two tensors, of which the first one does not end at a multiple of the alignment."""
    norm = np.arange(3, dtype="<f4")
    block = struct.pack("<e32b", 0.5, *range(32))
    return [("norm", (3,), F32, norm.tobytes()), ("weight", (2, 32), Q8_0, block + block)]


@pytest.mark.parametrize("alignment", [32, 64])
def test_metadata_and_tensors(tmp_path, plain, alignment):
    entries = [
        ("general.alignment", 4, struct.pack("<I", alignment)),
        ("general.architecture", 8, text("llama")),
        ("list", 9, struct.pack("<IQ", 8, 2) + text("Ġt") + text("he")),
        ("rate", 6, struct.pack("<f", 0.25)),
        ("yes", 7, b"\1"),
    ]
    metadata, tensors = gguf.read(gguf_file(tmp_path / "x.gguf", plain, entries, alignment))
    assert metadata == {
        "general.alignment": alignment,
        "general.architecture": "llama",
        "list": ["Ġt", "he"],
        "rate": 0.25,
        "yes": True,
    }
    assert tensors["norm"].tolist() == [0, 1, 2]
    assert tensors["weight"].shape == (2, 32) and tensors["weight"][1, 3] == 1.5


def test_every_torn_gguf_file_is_refused_in_a_line(tmp_path, plain):
    whole = gguf_file(tmp_path / "x.gguf", plain).read_bytes()
    end = whole.rstrip(b"\0")
    torn = tmp_path / "torn.gguf"
    for length in range(0, len(end), 7):
        torn.write_bytes(whole[:length])
        with pytest.raises(FormatError) as raised:
            gguf.read(torn)
        assert str(raised.value).startswith(f"{torn}: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"magic": b"PK\3\4"}, "is not a GGUF file: it begins with b'PK"),
        ({"version": 1}, "version 1 is not supported"),
        ({"tensors": [("weight", (32,), Q4_0, bytes(18))]}, "tensor 'weight' has the encoding 2"),
        (
            {"tensors": [("weight", (33,), Q4_1, bytes(40))]},
            "tensor 'weight' has 33 values, which are not whole blocks of 32",
        ),
        ({"metadata": [("odd", 77, b"")]}, "the metadata 'odd' has the unknown type 77"),
        ({"metadata": [("odd", 8, struct.pack("<Q", 2) + b"\xff\xfe")]}, "is not valid UTF-8"),
    ],
)
def test_wrong_gguf_file(tmp_path, plain, changes, message):
    with pytest.raises(FormatError, match=message):
        gguf.read(gguf_file(tmp_path / "x.gguf", **{"tensors": plain, **changes}))


# ----- CTranslate2 -----------------------------------------------------------------------------------------------------


def short(value: str) -> bytes:
    return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"


def model_bin(path, variables, version=6, kind="WhisperSpec"):
    """Write a file. ``variables``: name, array, or name, array, number of its type, size in bytes."""
    content = struct.pack("<I", version) + short(kind) + struct.pack("<II", 3, len(variables))
    for name, array, *others in variables:
        number, size = others or (ctranslate2.TYPES.index(array.dtype), array.nbytes)
        content += (
            short(name) + struct.pack(f"<B{array.ndim}IBI", array.ndim, *array.shape, number, size) + array.tobytes()
        )
    path.write_bytes(content + struct.pack("<I", 0))
    return path


VARIABLES = [
    ("encoder/weight", np.arange(6, dtype=np.float16).reshape(2, 3)),
    ("encoder/num_heads", np.array(6, np.int16)),
    ("flag", np.array(-1, np.int8)),
]


def test_variables(tmp_path):
    read = ctranslate2.read(model_bin(tmp_path / "model.bin", VARIABLES), "WhisperSpec")
    for name, array in VARIABLES:
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_every_torn_model_is_refused_in_a_line(tmp_path):
    whole = model_bin(tmp_path / "model.bin", VARIABLES).read_bytes()[:-4]
    torn = tmp_path / "torn.bin"
    for length in range(len(whole)):
        torn.write_bytes(whole[:length])
        with pytest.raises(FormatError) as raised:
            ctranslate2.read(torn, "WhisperSpec")
        assert str(raised.value).startswith(f"{torn}: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 5}, "not a CTranslate2 model of version 6: its first number is 5"),
        ({"kind": "TransformerSpec"}, "contains a 'TransformerSpec', not a 'WhisperSpec'"),
        ({"variables": [("w", np.zeros(2, np.float32), 9, 8)]}, "variable 'w' has the unknown type 9"),
        ({"variables": [("w", np.zeros(2, np.float32), 0, 7)]}, r"variable 'w' has 7 bytes, but float32 \[2\] needs 8"),
    ],
)
def test_wrong_model(tmp_path, changes, message):
    with pytest.raises(FormatError, match=message):
        ctranslate2.read(model_bin(tmp_path / "model.bin", **{"variables": VARIABLES, **changes}), "WhisperSpec")


def test_shapes_are_torchs(tmp_path):
    array = np.arange(math.prod((4, 2, 3)), dtype="<f4").reshape(4, 2, 3)
    _, tensors = gguf.read(gguf_file(tmp_path / "x.gguf", [("conv", array.shape, F32, array.tobytes())]))
    np.testing.assert_array_equal(tensors["conv"], array)
