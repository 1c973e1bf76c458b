"""Actors' speech with its text: 6,000 clips of about 30 characters of the adventure game Flight of the Amazon Queen.

The game is in Debian's package of that name. Its licence allows changing and distributing it. ScummVM's engines/queen
(resource.cpp, talk.cpp, cutaway.cpp, logic.cpp) has the formats, and how a clip's name follows from its text's place.
"""

import io
import re
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from examples.real_speech.sentences import words
from examples.spoken_german.synthesis import SAMPLE_RATE
from verl_leaf.common.files import whole_folder

PACKAGE = "flight-of-the-amazon-queen"
ARCHIVE = f"usr/share/scummvm/{PACKAGE}/queen.1c"
MAGIC, MP3 = b"QTBL", 1
HEADER, ENTRY = struct.Struct(">4s8xBH"), struct.Struct(">12sxII")
"""Formats of the archive: mark, compression of the sounds, number of files; and of a file in it: name, position, size."""
DIALOGUE, LINE = struct.Struct(">20xH2xHHH12xH"), struct.Struct(">2xHB")
"""Formats of a dialogue: depth, number, the lines of the player and of the other, and where the other's begin; and of a
line: number, length of its text."""
SCENE = struct.Struct(">28xH")
"""Format of a scene: where its lines begin."""
AMOS = 20
"""Number of bytes at the beginning of dialogues and scenes that their positions do not count."""
REMARKS, FIRST_REMARK = "QUEEN2.JAS", 41
"""The file with the player's remarks about things, one per line, and the number of the first."""
SPOKEN = re.compile(r"[A-Za-z '\".,:;!?-]+")
"""Texts without digits, noises such as "(sigh)", and rests of the format."""
SECONDS = (0.6, 6.0)
"""Shortest and longest clip. Shorter ones are cries."""


@dataclass(frozen=True)
class ActedClip:
    """What a character says in one breath."""

    source: str
    """The file of the text. A dialogue's begins with the name of the character who talks to the player."""
    text: str
    wave: np.ndarray
    """float32 at 16 kHz."""


def read(folder: Path) -> list[ActedClip]:
    """Return the clips; the package is downloaded into ``folder`` unless it is there.

    Raises:
        SystemExit: apt cannot download the package, or its content is not the expected one.
    """
    if not (folder / PACKAGE).exists():
        unpack(folder)
    files = archive(folder / PACKAGE / ARCHIVE)
    found = []
    for source, content in files.items():
        for clip, line in lines(source, content):
            # Commands such as *03 separate what is spoken in one breath.
            for piece, text in enumerate(re.split(r"\*..", line), 1):
                name = f"{clip}{piece:X}.SB"
                if name in files and words(text) and SPOKEN.fullmatch(text):
                    wave, rate = soundfile.read(io.BytesIO(files[name]), dtype="float32")
                    if SECONDS[0] <= len(wave) / rate <= SECONDS[1]:
                        found.append(ActedClip(source, text, soxr.resample(wave, rate, SAMPLE_RATE)))
    return found


def unpack(folder: Path) -> None:
    """Download the package with apt and unpack it, without installing it or what it depends on."""
    with whole_folder(folder / PACKAGE) as partial:
        for command in (f"apt-get --quiet download {PACKAGE}", f"dpkg-deb --extract {PACKAGE}_*.deb ."):
            done = subprocess.run(command, shell=True, cwd=partial, capture_output=True, text=True)
            if done.returncode:
                reason = done.stderr.strip().splitlines()[-1:] or ["no reason was given"]
                raise SystemExit(f"{command}: {reason[0]}")


def archive(path: Path) -> dict[str, bytes]:
    """Return the files in the archive of the game by name."""
    content = path.read_bytes()
    magic, compression, count = HEADER.unpack_from(content)
    if magic != MAGIC or compression != MP3:
        raise SystemExit(f"{path}: is not the archive of the game with sounds in MP3")
    files = {}
    for number in range(count):
        name, position, size = ENTRY.unpack_from(content, HEADER.size + number * ENTRY.size)
        files[name.split(b"\0")[0].decode("latin-1")] = content[position : position + size]
    return files


def lines(source: str, content: bytes) -> Iterator[tuple[str, str]]:
    """Yield the lines of a file that are spoken: what the names of their clips begin with, and the text."""
    stem, _, kind = source.partition(".")
    if kind == "DOG":
        depth, key, player, other, start = DIALOGUE.unpack_from(content)
        depth = min(depth, 65536 - depth)  # negative if the player must not leave
        for who, count, position in (("J", player, 32 + 96 * depth), ("P", other, start)):
            for _ in range(count):
                number, length = LINE.unpack_from(content, AMOS + position)
                position += LINE.size + length
                yield (
                    f"{key:02d}{number:04X}{who}",
                    content[AMOS + position - length : AMOS + position].decode("latin-1"),
                )
                position += -position % 4
    elif kind == "CUT":
        position = SCENE.unpack_from(content)[0] + 1
        number = 0
        while AMOS + position < len(content):
            length = content[AMOS + position]
            position += 1 + length
            number += 1
            yield f"{stem[:5]:_<5}{number:02d}", content[AMOS + position - length : AMOS + position].decode("latin-1")
            position += position % 2
    elif source == REMARKS:
        for number, line in enumerate(content.decode("latin-1").split("\r\n"), FIRST_REMARK):
            yield f"JOE{number:04d}", line
