"""Replies on disk: what was paid for is never asked again."""

import json
import os
from pathlib import Path


class Cache:
    """A file of JSON lines, one reply each, by the digest of what was asked.

    Args:
        file: made when the first reply comes. A last line that was cut off, by a kill or a full disk, is dropped.

    Raises:
        ValueError: another line is no reply.
    """

    def __init__(self, file: Path):
        self._file = file
        self._replies: dict[str, dict] = {}
        content = file.read_bytes() if file.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                self._replies[entry["key"]] = entry["reply"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{file}, line {number}: is no reply of a judge; delete the line, or the file"
                ) from error
        if len(whole) < len(content):
            os.truncate(file, len(whole))

    def __contains__(self, key: str) -> bool:
        return key in self._replies

    def __getitem__(self, key: str) -> dict:
        return self._replies[key]

    def put(self, key: str, reply: dict) -> None:
        """Keep a reply; it is on the disk when this returns."""
        self._replies[key] = reply
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"key": key, "reply": reply}) + "\n")
            lines.flush()
            os.fsync(lines.fileno())
