"""References to audio in a row, and where they lead."""

import base64
import binascii
import os
import re
from urllib.parse import unquote_to_bytes

URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
DATA_URI = re.compile(r"data:(?:.{0,200}?(;\s*base64)\s*,|[^,]{0,200},)", re.IGNORECASE)
BASE64 = re.compile(r"[A-Za-z0-9+/_\s-]{256,}={0,2}\s*")  # shorter texts are paths, because no clip is that short
URL_SAFE = bytes.maketrans(b"-_", b"+/")
MAX_NAME = 200  # characters of a path in a message


class AudioError(ValueError):
    """An error about audio that cannot be used. The message names the audio and the reason."""


def absolute_audio(reference, root: str):
    """Return an audio reference that does not depend on the working directory.

    Args:
        reference: reference as in :func:`verl_leaf.data.audio.load_audio`.
        root: folder from which a relative path starts.

    Returns:
        The reference, with a path or a ``file:`` URI turned into a path below ``root``, and base64 into a ``data:`` URI.
            ``data:`` URIs and references that are not text are returned unchanged.

    Raises:
        AudioError: the text is a URL, which is not fetched, or its base64 is damaged.
    """
    if isinstance(reference, str | os.PathLike):
        return _absolute(os.fspath(reference), root)
    path = reference.get("path") if isinstance(reference, dict) and reference.get("bytes") is None else None
    if isinstance(path, str | os.PathLike):
        return {**reference, "path": _absolute(os.fspath(path), root)}
    return reference


def _absolute(text: str, root: str) -> str:
    if uri := DATA_URI.match(text):
        _decoded(text, uri)
        return text
    scheme, _, rest = text.partition(":")
    if scheme.lower() == "file":
        host, _, path = rest[2:].partition("/") if rest.startswith("//") else ("", "", rest)
        if host.lower() not in ("", "localhost"):
            raise AudioError(
                f"{shortened(text)} names the host {host!r:.80}. Write file:///PATH for a file on this machine"
            )
        return os.path.join(root, "/" * rest.startswith("//") + os.fsdecode(unquote_to_bytes(path)))
    if URL.match(text):
        raise AudioError(
            f"{shortened(text)} is a URL, which is not fetched. Download the audio, and give the file's path"
        )
    path = os.path.join(root, text)
    if BASE64.fullmatch(text) and not os.path.exists(path):
        return _absolute(f"data:;base64,{text}", root)
    return path


def contents(reference) -> tuple[bytes | None, str | None]:
    """Return the encoded bytes in an absolute reference, or else its path; both are None if it has neither."""
    data = path = reference
    if isinstance(reference, dict):
        data, path = reference.get("bytes"), reference.get("path")
        path = path if data is None else None
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data), None
    if not isinstance(path, str):
        return None, None
    uri = DATA_URI.match(path)
    return (None, path) if uri is None else (_decoded(path, uri), None)


def _decoded(text: str, uri: re.Match) -> bytes:
    data = unquote_to_bytes(text[uri.end() :])
    if not uri[1]:
        return data
    data = data.translate(URL_SAFE, b" \t\r\n").rstrip(b"=")
    try:
        return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)
    except binascii.Error as error:
        raise AudioError(f"{shortened(text)} is not valid base64 ({error}). It is damaged or cut off") from error


def audio_name(reference) -> str:
    """Return the name of an absolute reference for messages: its path, if it has one."""
    path = reference.get("path") if isinstance(reference, dict) else reference
    if isinstance(path, str) and not DATA_URI.match(path):
        return shortened(path)
    return "audio array" if isinstance(reference, dict) and reference.get("array") is not None else "audio bytes"


def shortened(name: str) -> str:
    """Return the beginning and the end of a name that is too long for a message."""
    half = MAX_NAME // 2
    return name if len(name) <= MAX_NAME else f"{name[:half]}...{name[-half:]}"
