"""The file format of the SSD tier: segment files of equal extents, one record a block. No MLX.

A segment file (all numbers little endian)::

    superblock   4 KiB                                   sizes, fingerprint, what it holds in words
    recency      8 bytes an extent                       last use, ms since 1970; a hint, unchecked
    headers      one slot an extent, whole 512 bytes     who the record is; checksum of itself
    payloads     one slot an extent, whole 4 KiB         bytes as they were given

The headers lie together so that opening a file is one plain read, and the payloads lie together so
that neighbouring blocks are one read as well. A payload that is larger than a slot takes several
extents (parts), each with its own header. A record exists once the headers of all parts are there;
they are written after the payloads. The checksum of a payload is seeded with its header, so the
bytes of an older record at the same place never pass for it.
"""

import os
import zlib
from collections.abc import Sequence
from hashlib import blake2b
from struct import Struct as Packing
from struct import error as PackingError
from struct import pack

from msgspec import Struct

VERSION = 1
PAGE_BYTES = 4096  # alignment that direct reads need
SECTOR_BYTES = 512
KEY_BYTES = 16
MAX_BLOCK_TOKENS = 1 << 16
NO_PARENT = bytes(KEY_BYTES)

HEADER_MAGIC = b"vMkR"
HEADER = Packing(f"<4sHHHxx{KEY_BYTES}s{KEY_BYTES}s{KEY_BYTES}sQQIIqI")
CHECKSUM = Packing("<I")
SUPERBLOCK_MAGIC = b"vMkSegmt"
SUPERBLOCK = Packing(f"<8sHxx{KEY_BYTES}sIIQI")


class DamagedError(Exception):
    """Bytes on disk are not what was written; the message says which."""


class Layout(Struct, frozen=True):
    """Sizes of one segment file. ``header_bytes`` and ``payload_bytes`` are those of a slot."""

    extents: int
    header_bytes: int
    payload_bytes: int

    @property
    def headers_at(self) -> int:
        return PAGE_BYTES + round_up(8 * self.extents, SECTOR_BYTES)

    @property
    def payloads_at(self) -> int:
        return round_up(self.headers_at + self.header_bytes * self.extents, PAGE_BYTES)

    def header_at(self, slot: int) -> int:
        return self.headers_at + slot * self.header_bytes

    def payload_at(self, slot: int) -> int:
        return self.payloads_at + slot * self.payload_bytes

    def file_bytes(self, grown: int) -> int:
        """Length of a file whose first ``grown`` payload slots exist."""
        return self.payload_at(grown)


class RecordHeader(Struct, frozen=True):
    """One part of one record. ``serial`` is the same for all parts and never used twice."""

    key: bytes
    parent: bytes  # NO_PARENT: the first block of a prompt
    fingerprint: bytes
    token_ids: bytes  # int32 each
    serial: int
    part: int
    parts: int
    record_bytes: int  # payload of all parts together
    part_bytes: int
    checksum: int  # of this part's payload, see ``payload_checksum``
    written_ms: int


class Superblock(Struct, frozen=True):
    """What a segment file says of itself."""

    fingerprint: bytes
    layout: Layout
    words: str  # model, adapter, KV format, layers: for people


def round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def fingerprint_of(model: str, layer_signature: str, block_tokens: int, block_bytes: int) -> bytes:
    """Whatever must be equal for keys and values to be interchangeable, format version included."""
    parts = [str(VERSION), model, layer_signature, str(block_tokens), str(block_bytes)]
    digest = blake2b(digest_size=KEY_BYTES)
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()


def plan_layout(block_bytes: int, block_tokens: int, segment_bytes: int) -> Layout:
    """As many extents as fit ``segment_bytes``, at least one."""
    if not 1 <= block_tokens <= MAX_BLOCK_TOKENS or block_bytes < 1:
        raise ValueError(f"a block of {block_tokens} tokens and {block_bytes} bytes")
    header = round_up(HEADER.size + 4 * block_tokens + CHECKSUM.size, SECTOR_BYTES)
    payload = round_up(block_bytes, PAGE_BYTES)
    extents = max(1, (segment_bytes - 2 * PAGE_BYTES) // (8 + header + payload))
    return Layout(extents, header, payload)


def pack_tokens(token_ids: Sequence[int]) -> bytes:
    """int32 each, as they lie in a header."""
    return pack(f"<{len(token_ids)}i", *token_ids)


def encode_header(header: RecordHeader) -> bytes:
    body = (
        HEADER.pack(
            HEADER_MAGIC,
            VERSION,
            header.part,
            header.parts,
            header.key,
            header.parent,
            header.fingerprint,
            header.serial,
            header.record_bytes,
            header.part_bytes,
            header.checksum,
            header.written_ms,
            len(header.token_ids) // 4,
        )
        + header.token_ids
    )
    return body + CHECKSUM.pack(zlib.crc32(body))


def is_blank(slot: bytes | memoryview) -> bool:
    """Nothing was ever written here, or it was wiped."""
    return bytes(slot[: len(HEADER_MAGIC)]) == bytes(len(HEADER_MAGIC))


def decode_header(slot: bytes | memoryview, fingerprint: bytes) -> RecordHeader:
    """Raises DamagedError where this is not a whole header of this fingerprint."""
    try:
        magic, version, part, parts, key, parent, found, *rest = HEADER.unpack_from(slot)
    except PackingError as error:
        raise DamagedError("a header is cut off") from error
    serial, record_bytes, part_bytes, checksum, written_ms, tokens = rest
    end = HEADER.size + 4 * tokens
    if magic != HEADER_MAGIC or version != VERSION or end + CHECKSUM.size > len(slot):
        raise DamagedError("not a header of this version")
    if zlib.crc32(slot[:end]) != CHECKSUM.unpack_from(slot, end)[0]:
        raise DamagedError("the checksum of a header does not match")
    if found != fingerprint:
        raise DamagedError("a record of another model or format")
    if not (0 <= part < parts and 0 < part_bytes <= record_bytes):
        raise DamagedError("the parts of a record make no sense")
    return RecordHeader(
        key=key,
        parent=parent,
        fingerprint=found,
        token_ids=bytes(slot[HEADER.size : end]),
        serial=serial,
        part=part,
        parts=parts,
        record_bytes=record_bytes,
        part_bytes=part_bytes,
        checksum=checksum,
        written_ms=written_ms,
    )


def payload_checksum(payload: bytes | memoryview, key: bytes, serial: int, part: int) -> int:
    """CRC-32 of a part, begun from who it is: equal bytes of two records have different sums."""
    who = key + serial.to_bytes(8, "little") + part.to_bytes(2, "little")
    return zlib.crc32(payload, zlib.crc32(who))


def encode_superblock(block: Superblock) -> bytes:
    """One page; words that do not fit are cut, at a character."""
    words = block.words.encode()[: PAGE_BYTES - SUPERBLOCK.size - CHECKSUM.size]
    words = words.decode(errors="ignore").encode()
    layout = block.layout
    body = SUPERBLOCK.pack(
        SUPERBLOCK_MAGIC,
        VERSION,
        block.fingerprint,
        layout.extents,
        layout.header_bytes,
        layout.payload_bytes,
        len(words),
    )
    body = (body + words).ljust(PAGE_BYTES - CHECKSUM.size, b"\0")
    return body + CHECKSUM.pack(zlib.crc32(body))


def decode_superblock(data: bytes) -> Superblock:
    """Raises DamagedError; also for a version that this code does not know."""
    if len(data) < PAGE_BYTES or data[: len(SUPERBLOCK_MAGIC)] != SUPERBLOCK_MAGIC:
        raise DamagedError("not a segment file")
    _, version, fingerprint, extents, header, payload, length = SUPERBLOCK.unpack_from(data)
    if zlib.crc32(data[: PAGE_BYTES - 4]) != CHECKSUM.unpack_from(data, PAGE_BYTES - 4)[0]:
        raise DamagedError("the checksum of a segment's first page does not match")
    if version != VERSION:
        raise DamagedError(f"format version {version}, this is version {VERSION}")
    words = data[SUPERBLOCK.size : SUPERBLOCK.size + length].decode(errors="replace")
    return Superblock(fingerprint, Layout(extents, header, payload), words)


def read_superblock(path: str | os.PathLike[str]) -> Superblock:
    """Raises DamagedError, OSError."""
    with open(path, "rb", buffering=0) as file:
        return decode_superblock(file.read(PAGE_BYTES))
