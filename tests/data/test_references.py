"""What a row may hold for a clip: paths, URIs, base64, bytes; and what each is called in messages."""

import base64
import io
from urllib.parse import quote

import numpy as np
import pytest
import soundfile

from verl_leaf.data.audio import AudioError, load_audio
from verl_leaf.data.references import absolute_audio, audio_name, contents
from verl_leaf.data.rows import spoken_row

TONE = (0.3 * np.sin(0.05 * np.arange(8000))).astype(np.float32)


@pytest.fixture(scope="module")
def wav() -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, TONE, 16000, format="WAV")
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["a.wav", "a b.wav", "Grüße #1?.wav", "100%.wav", "per%20cent.wav"])
def test_file_uris(tmp_path, wav, name):
    (tmp_path / name).write_bytes(wav)
    path = quote(str(tmp_path / name))
    for uri in (f"file://{path}", f"file://localhost{path}", f"FILE://{path}", f"file:{path}", f"file:{quote(name)}"):
        for reference in (uri, {"bytes": None, "path": uri}):
            assert len(load_audio(reference, 16000, str(tmp_path))) == 8000
        assert absolute_audio(uri, str(tmp_path)) == str(tmp_path / name)


def test_data_uris_and_base64(wav):
    text = base64.b64encode(wav).decode()
    url_safe = base64.urlsafe_b64encode(wav).decode().rstrip("=")
    lines = "\n".join(text[start : start + 76] for start in range(0, len(text), 76))
    for reference in (
        f"data:audio/wav;base64,{text}",
        f"DATA:;BASE64,{url_safe}",
        f'data:audio/webm;codecs="vp8,opus";base64,{text}',
        f"data:audio/wav;base64,{quote(text, safe='')}",
        f"data:audio/wav,{quote(wav)}",
        {"bytes": None, "path": f"data:audio/wav;base64,{lines}"},
        text,
        url_safe,
        lines,
    ):
        absolute = absolute_audio(reference, "/data")
        assert contents(absolute) == (wav, None) and audio_name(absolute) == "audio bytes"
        assert len(load_audio(reference, 16000, "/data")) == 8000


def test_a_path_that_looks_like_base64_is_a_path(tmp_path, wav):
    file = tmp_path.joinpath(*["longfoldername"] * 20, "clip")
    file.parent.mkdir(parents=True)
    file.write_bytes(wav)
    name = str(file.relative_to(tmp_path))
    assert len(name) > 256 and absolute_audio(name, str(tmp_path)) == str(file)


@pytest.mark.parametrize(
    "reference, reason",
    [
        *(
            (f"{scheme}://host/a.wav", "is a URL, which is not fetched. Download")
            for scheme in ("https", "s3", "hf", "gs")
        ),
        ("HTTP://host/a.wav?token=" + "x" * 9000, "is a URL, which is not fetched"),
        ("file://host/a.wav", "names the host 'host'. Write file:///PATH"),
        ("data:audio/wav;base64,UklGRg*$", "is not valid base64"),
        ("A" * 1001, "is not valid base64"),
        ("data:audio/wav;base64,", "audio bytes: it cannot be read"),
        ("gone/" * 2000 + "a.wav", "no such file"),
        ("data:audio/wav;base64", "no such file"),
    ],
)
def test_what_is_not_read_is_a_short_line(reference, reason):
    for each in (reference, {"bytes": None, "path": reference}):
        with pytest.raises(AudioError, match=reason) as error:
            load_audio(each, 16000, "/data")
        assert len(str(error.value)) < 400
    if "fetched" in reason or "base64" in reason:
        row = {"data_source": "x", "reward_model": {"ground_truth": "y"}, "audios": [reference]}
        with pytest.raises(AudioError, match=reason):
            spoken_row(row | {"prompt": [{"role": "user", "content": "<audio>"}]}, "/data")
