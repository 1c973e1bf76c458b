"""What libsndfile does not find out of an encoded file: where its audio begins and how long it is.

libsndfile takes its mp3 decoder for a file that does not begin with a frame only where the name ends in ``.mp3``, and
loses its way behind ID3 tags when it is not given a name (src/sndfile.c). A recorder that writes into a pipe cannot go
back and fill in the length; of what stands there instead, libsndfile knows some values in some formats.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

ByteOrder = Literal["little", "big"]

MAX_JUNK = 2**16  # bytes before the first mp3 frame, as many as libmpg123 skips
MAX_CHUNKS = 1000  # that are looked at in search of the samples
CHAIN = 4  # mp3 headers that must follow each other: bytes that look like one are frequent, four in a row are not
SOX = (b".SoX", b"XoS.")  # what `sox -p` writes
MPEG_1_KILOBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # per second, of layer III
MPEG_2_KILOBITS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
MPEG_1 = 3  # the version bits; 2 is MPEG 2, 0 MPEG 2.5
HERTZ = {MPEG_1: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}

# What is written for an unknown length, besides 0: the most that 32 bits hold with and without a sign (arecord, ffmpeg,
# Java), less a few kilobytes (SoX and eSpeak: 0x7FFFF000), give or take headers and whole blocks; SoX's of aiff.
UNKNOWN = (0x7F000000, 2**31, 2**32)
UNKNOWN_MARGIN = 2**16
UNKNOWN_64_BIT = 2**62


class Window(io.RawIOBase):
    """``head``, and then a binary file from ``start`` on, as one file without a name."""

    def __init__(self, file: io.IOBase, start: int, head: bytes = b""):
        super().__init__()
        self.file, self.start, self.head, self.position = file, start, head, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = len(self.head) + _size(self.file) - self.start
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: end}[whence]
        self.position = max(0, origin + offset)
        return self.position

    def readinto(self, buffer) -> int:
        data = self.head[self.position : self.position + len(buffer)]
        if len(data) < len(buffer):  # a short read means the end to libsndfile
            behind = self.start + self.position + len(data) - len(self.head)
            data += _read(self.file, behind, len(buffer) - len(data))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


@dataclass
class DataLength:
    """The length of the samples as a header states it, and as it is, in bytes."""

    position: int  # of the number in the file
    size: int  # of the number: 4 or 8; 0 where libsndfile does not look at it
    order: ByteOrder
    stated: int
    found: int  # up to the end of the file
    is_followed: bool = False  # another chunk begins where the samples would

    def is_unknown(self) -> bool:
        """Return whether the stated length stands for "unknown"."""
        if self.stated == 0:
            return self.found > 0 and not self.is_followed
        near = any(abs(self.stated - number) <= UNKNOWN_MARGIN for number in UNKNOWN)
        return self.stated > self.found and (near or self.stated >= UNKNOWN_64_BIT)

    def corrected(self, file: io.IOBase, start: int) -> Window:
        """The file from ``start`` on with the length that it has."""
        number = min(self.found, 256**self.size - 1).to_bytes(self.size, self.order)
        return Window(file, self.position + self.size, _read(file, start, self.position - start) + number)

    def is_cut_off(self) -> bool:
        return not self.is_unknown() and self.found < 0.99 * self.stated


def end_of_tags(file: io.IOBase) -> int:
    """Return where the ID3v2 tags at the beginning of a file end: 0 if there are none (id3.org, ID3v2.4 section 3.1)."""
    size, end = _size(file), 0
    while True:
        head = _read(file, end, 10)
        if len(head) < 10 or head[:3] != b"ID3" or head[3] == 0xFF or max(head[6:]) > 0x7F:
            return end
        length = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
        if head[3] == 4 and head[5] & 0x10:
            length += 10  # a footer
        if end + length >= size:
            return end
        end += length


def first_mp3_frame(file: io.IOBase, start: int) -> int | None:
    """Return where the first frame of MPEG layer III lies within ``MAX_JUNK`` bytes from ``start``: None if nowhere."""
    data = _read(file, start, MAX_JUNK)
    for offset in range(len(data)):
        if data[offset] == 0xFF and _begins_frames(file, start + offset):
            return start + offset
    return None


def mp3_length(file: io.IOBase, start: int) -> tuple[int, int]:
    """Frames and samples of an mp3 whose first frame lies at ``start``, a Xing tag's own left out."""
    size, position, frames, version = _size(file), behind_xing_tag(file, start), 0, None
    while position < size:
        frame = _mp3_frame(_read(file, position, 4))
        if frame is None:
            found = first_mp3_frame(file, position)
            if found is None:
                break
            position = found
        else:
            (version, _), length = frame
            frames, position = frames + 1, position + length
    return frames, frames * (1152 if version == MPEG_1 else 576)


def behind_xing_tag(file: io.IOBase, start: int) -> int:
    """Return where the audio of an mp3 begins: behind its first frame if that holds the number of frames instead."""
    head = _read(file, start, 48)
    frame = _mp3_frame(head[:4])
    return start + frame[1] if frame and (b"Xing" in head or b"Info" in head) else start


def with_xing_tag(file: io.IOBase, start: int, frames: int) -> Window:
    """An mp3 whose first frame lies at ``start``, with a Xing tag that states ``frames``."""
    _, second, third, fourth = _read(file, start, 4)
    tag = bytearray([0xFF, second | 1, 5 << 4 | third & 0x0C, fourth])  # no checksum; a bitrate that leaves room
    is_mono, is_mpeg_1 = fourth >> 6 == 3, second >> 3 & 3 == MPEG_1
    side_information = (17 if is_mono else 32) if is_mpeg_1 else (9 if is_mono else 17)
    tag += bytes(side_information) + b"Xing" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")
    frame = _mp3_frame(bytes(tag))
    assert frame is not None
    return Window(file, behind_xing_tag(file, start), bytes(tag.ljust(frame[1], b"\0")))


def _begins_frames(file: io.IOBase, position: int) -> bool:
    """Return whether ``CHAIN`` frames of one kind follow each other from ``position``, or at least 2 up to the file's end."""
    kind, count, size = None, 0, _size(file)
    while count < CHAIN and position < size:
        frame = _mp3_frame(_read(file, position, 4))
        if frame is None or kind not in (None, frame[0]):
            return False
        kind, count, position = frame[0], count + 1, position + frame[1]
    return count >= 2


def _mp3_frame(header: bytes) -> tuple[tuple[int, int], int] | None:
    """Version and rate, and the length in bytes of the frame that 4 bytes begin (ISO 11172-3, section 2.4.2.3)."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version, bitrate, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version not in HERTZ or not 1 <= bitrate <= 14 or rate == 3:
        return None
    hertz = HERTZ[version][rate]
    eighth_of_samples, kilobits = (144, MPEG_1_KILOBITS) if version == MPEG_1 else (72, MPEG_2_KILOBITS)
    padding = header[2] >> 1 & 1
    return (version, hertz), eighth_of_samples * 1000 * kilobits[bitrate - 1] // hertz + padding


def data_length(file: io.IOBase, start: int) -> DataLength | None:
    """Return the length that the header at ``start`` states of a wav, rf64, w64, aiff, svx, caf, au, sox or NIST file, if any."""
    head = _read(file, start, 40)
    size = _size(file)
    order: ByteOrder = "little" if head[:4] in (b"RIFF", b"RF64", b"riff", b"dns.", b".SoX") else "big"
    if head[:4] in (b".snd", b"dns.") and len(head) >= 12:
        offset, stated = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))
        return DataLength(start + 8, 4, order, stated, max(0, size - start - offset))
    if head[:4] in SOX:
        header, samples = (int.from_bytes(part, order) for part in (head[4:8], head[8:16]))
        return DataLength(start, 0, order, 4 * samples, max(0, size - start - 4 - header))
    if head[:7] == b"NIST_1A":
        return _nist_length(file, start)
    if head[:4] == b"caff":
        return _length_of_chunk(file, start + 8, Layout(4, 8, order))
    if head[:4] == b"riff":
        return _length_of_chunk(file, start + 40, Layout(16, 8, order, counts_itself=True, align=8))
    if head[:4] in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
        return _length_of_chunk(file, start + 12, Layout(4, 4, order, align=2))
    return None


@dataclass
class Layout:
    """How a format's chunks are laid out: a name, a number of bytes, the content."""

    name: int  # bytes that the name takes, of which the first 4 tell
    number: int  # bytes that the number takes
    order: ByteOrder
    counts_itself: bool = False  # the number includes name and number
    align: int = 1


def _chunks(file: io.IOBase, position: int, layout: Layout) -> Iterator[tuple[bytes, int, int]]:
    """The chunks from ``position`` on: name, number, and where the content begins."""
    header_size = layout.name + layout.number
    for _ in range(MAX_CHUNKS):
        header = _read(file, position, header_size)
        if len(header) < header_size or not any(header[: layout.name]):
            return
        stated = int.from_bytes(header[layout.name :], layout.order)
        content = position + header_size
        yield header[:4], stated, content
        end = max(content, content + stated - header_size * layout.counts_itself)
        position = end + -stated % layout.align


def _length_of_chunk(file: io.IOBase, first: int, layout: Layout) -> DataLength | None:
    """Return the length of the chunk with the samples; for RF64 what the chunk ds64 states, after the whole (EBU Tech 3306)."""
    size, ds64 = _size(file), None
    for name, stated, content in _chunks(file, first, layout):
        if name == b"ds64":
            ds64 = content + 8
        if name in (b"data", b"SSND", b"BODY"):
            found = max(0, size - content) + (layout.name + layout.number) * layout.counts_itself
            follower = next(_chunks(file, content, layout), (b"\0", 0, 0))
            is_followed = all(32 <= byte < 127 for byte in follower[0]) and follower[1] + follower[2] <= size + 1
            if ds64 is not None:
                stated = int.from_bytes(_read(file, ds64, 8), "little")
                return DataLength(ds64, 8, "little", stated, found, is_followed)
            return DataLength(content - layout.number, layout.number, layout.order, stated, found, is_followed)
    return None


def _nist_length(file: io.IOBase, start: int) -> DataLength | None:
    """Return the length in a header of NIST Sphere: lines of text that libsndfile takes no length from."""
    head = _read(file, start, 4096).split(b"end_head")[0].split(b"\n")
    fields = dict(line.split()[::2] for line in head if len(line.split()) == 3)
    if b"embedded" in fields.get(b"sample_coding", b""):
        return None  # compressed, which libsndfile does not read
    try:
        frames, width, channels = (int(fields[name]) for name in (b"sample_count", b"sample_n_bytes", b"channel_count"))
        found = max(0, _size(file) - start - int(head[1]))
    except (KeyError, ValueError, IndexError):
        return None
    return DataLength(start, 0, "big", frames * width * channels, found) if frames > 0 else None


def _size(file: io.IOBase) -> int:
    return file.seek(0, io.SEEK_END)


def _read(file: io.IOBase, position: int, count: int) -> bytes:
    file.seek(min(position, _size(file)))  # a file system may know no position that a damaged header asks for
    return file.read(count)
