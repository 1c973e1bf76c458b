"""The start and the length of the audio in an encoded file, which libsndfile does not find in all cases.

libsndfile uses its mp3 decoder for a file that does not begin with a frame only if the name ends in ``.mp3``, and fails
after ID3 tags if it is not given a name (src/sndfile.c). A recorder that writes into a pipe cannot go back and fill in
the length. It writes a placeholder instead, and libsndfile knows only some of them in some formats.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

ByteOrder = Literal["little", "big"]

MAX_JUNK = 2**16  # bytes before the first mp3 frame that are skipped, as in libmpg123
MAX_CHUNKS = 1000  # chunks that are searched for the samples
CHAIN = 4  # consecutive mp3 headers that are required, because single bytes that look like one are frequent
SOX = (b".SoX", b"XoS.")  # the output of `sox -p`
MPEG_1_KILOBITS = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)  # kilobits per second in layer III
MPEG_2_KILOBITS = (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
MPEG_1 = 3  # version bits; 2 is MPEG 2, 0 is MPEG 2.5
HERTZ = {MPEG_1: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}

# Placeholders for an unknown length, besides 0: the largest number of 32 bits with or without a sign (arecord, ffmpeg, Java),
# minus a few kilobytes (SoX and eSpeak: 0x7FFFF000), plus or minus headers and whole blocks; and SoX's for aiff.
UNKNOWN = (0x7F000000, 2**31, 2**32)
UNKNOWN_MARGIN = 2**16
UNKNOWN_64_BIT = 2**62


class Window(io.RawIOBase):
    """A nameless file that consists of ``head`` and of a binary file from ``start`` on."""

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
        if len(data) < len(buffer):  # libsndfile takes a short read for the end
            behind = self.start + self.position + len(data) - len(self.head)
            data += _read(self.file, behind, len(buffer) - len(data))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


@dataclass
class DataLength:
    """The length of the samples in bytes, as stated in a header and as it is."""

    position: int  # position of the number in the file
    size: int  # size of the number: 4 or 8, or 0 if libsndfile does not read it
    order: ByteOrder
    stated: int
    actual: int  # bytes up to the end of the file
    is_followed: bool = False  # True if another chunk begins in place of the samples

    def is_unknown(self) -> bool:
        """Return whether the stated length stands for "unknown"."""
        if self.stated == 0:
            return self.actual > 0 and not self.is_followed
        near = any(abs(self.stated - number) <= UNKNOWN_MARGIN for number in UNKNOWN)
        return self.stated > self.actual and (near or self.stated >= UNKNOWN_64_BIT)

    def corrected(self, file: io.IOBase, start: int) -> Window:
        """Return the file from ``start`` on, with the true length in its header."""
        number = min(self.actual, 256**self.size - 1).to_bytes(self.size, self.order)
        return Window(file, self.position + self.size, _read(file, start, self.position - start) + number)

    def is_cut_off(self) -> bool:
        return not self.is_unknown() and self.actual < 0.99 * self.stated


def end_of_tags(file: io.IOBase) -> int:
    """Return the end of the ID3v2 tags at the beginning of a file, or 0 without tags (id3.org, ID3v2.4 section 3.1)."""
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
    """Return the position of the first MPEG layer III frame within ``MAX_JUNK`` bytes from ``start``, or None."""
    data = _read(file, start, MAX_JUNK)
    for offset in range(len(data)):
        if data[offset] == 0xFF and _begins_frames(file, start + offset):
            return start + offset
    return None


def mp3_length(file: io.IOBase, start: int) -> tuple[int, int]:
    """Return frames and samples of an mp3 whose first frame is at ``start``, without the frame of a Xing tag."""
    size, position, frames, version = _size(file), behind_xing_tag(file, start), 0, None
    while position < size:
        frame = _mp3_frame(_read(file, position, 4))
        if frame is None:
            following = first_mp3_frame(file, position)
            if following is None:
                break
            position = following
        else:
            (version, _), length = frame
            frames, position = frames + 1, position + length
    return frames, frames * (1152 if version == MPEG_1 else 576)


def behind_xing_tag(file: io.IOBase, start: int) -> int:
    """Return the start of an mp3's audio, which is after the first frame if that is a Xing tag."""
    head = _read(file, start, 48)
    frame = _mp3_frame(head[:4])
    return start + frame[1] if frame and (b"Xing" in head or b"Info" in head) else start


def with_xing_tag(file: io.IOBase, start: int, frames: int) -> Window:
    """Return an mp3 whose first frame is at ``start``, with a Xing tag that states ``frames``."""
    _, second, third, fourth = _read(file, start, 4)
    tag = bytearray([0xFF, second | 1, 5 << 4 | third & 0x0C, fourth])  # no checksum; a bitrate that leaves room
    is_mono, is_mpeg_1 = fourth >> 6 == 3, second >> 3 & 3 == MPEG_1
    side_information = (17 if is_mono else 32) if is_mpeg_1 else (9 if is_mono else 17)
    tag += bytes(side_information) + b"Xing" + (1).to_bytes(4, "big") + frames.to_bytes(4, "big")
    frame = _mp3_frame(bytes(tag))
    assert frame is not None
    return Window(file, behind_xing_tag(file, start), bytes(tag.ljust(frame[1], b"\0")))


def _begins_frames(file: io.IOBase, position: int) -> bool:
    """Return whether ``CHAIN`` frames of one kind follow each other from ``position``, or at least 2 up to the end."""
    kind, count, size = None, 0, _size(file)
    while count < CHAIN and position < size:
        frame = _mp3_frame(_read(file, position, 4))
        if frame is None or kind not in (None, frame[0]):
            return False
        kind, count, position = frame[0], count + 1, position + frame[1]
    return count >= 2


def _mp3_frame(header: bytes) -> tuple[tuple[int, int], int] | None:
    """Return (version, rate) and the length in bytes of the frame with this header (ISO 11172-3, 2.4.2.3), or None."""
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
    """Return the length that the header of a wav, rf64, w64, aiff, svx, caf, au, sox or NIST file states, or None."""
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
    """The layout of a format's chunks: a name, a number of bytes, and the content."""

    name: int  # bytes of the name, of which the first 4 identify the chunk
    number: int  # bytes of the number
    order: ByteOrder
    counts_itself: bool = False  # True if the number includes name and number
    align: int = 1


def _chunks(file: io.IOBase, position: int, layout: Layout) -> Iterator[tuple[bytes, int, int]]:
    """Yield the chunks from ``position`` on: name, number, and start of the content."""
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
    """Return the length of the chunk with the samples; RF64 states it in the chunk ds64 (EBU Tech 3306)."""
    size, ds64 = _size(file), None
    for name, stated, content in _chunks(file, first, layout):
        if name == b"ds64":
            ds64 = content + 8
        if name in (b"data", b"SSND", b"BODY"):
            actual = max(0, size - content) + (layout.name + layout.number) * layout.counts_itself
            follower = next(_chunks(file, content, layout), (b"\0", 0, 0))
            is_followed = all(32 <= byte < 127 for byte in follower[0]) and follower[1] + follower[2] <= size + 1
            if ds64 is not None:
                stated = int.from_bytes(_read(file, ds64, 8), "little")
                return DataLength(ds64, 8, "little", stated, actual, is_followed)
            return DataLength(content - layout.number, layout.number, layout.order, stated, actual, is_followed)
    return None


def _nist_length(file: io.IOBase, start: int) -> DataLength | None:
    """Return the length in a NIST Sphere header, whose lines of text libsndfile does not read for it."""
    head = _read(file, start, 4096).split(b"end_head")[0].split(b"\n")
    fields = dict(line.split()[::2] for line in head if len(line.split()) == 3)
    if b"embedded" in fields.get(b"sample_coding", b""):
        return None  # compressed, which libsndfile does not read
    try:
        frames, width, channels = (int(fields[name]) for name in (b"sample_count", b"sample_n_bytes", b"channel_count"))
        actual = max(0, _size(file) - start - int(head[1]))
    except (KeyError, ValueError, IndexError):
        return None
    return DataLength(start, 0, "big", frames * width * channels, actual) if frames > 0 else None


def _size(file: io.IOBase) -> int:
    return file.seek(0, io.SEEK_END)


def _read(file: io.IOBase, position: int, count: int) -> bytes:
    file.seek(min(position, _size(file)))  # a damaged header may name an impossible position
    return file.read(count)
