"""The file format: what is encoded is decoded, and what is not whole is refused."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_mlx.cache.extents import (
    KEY_BYTES,
    PAGE_BYTES,
    SECTOR_BYTES,
    DamagedError,
    Layout,
    RecordHeader,
    Superblock,
    decode_header,
    decode_superblock,
    encode_header,
    encode_superblock,
    fingerprint_of,
    is_blank,
    pack_tokens,
    payload_checksum,
    plan_layout,
)

keys = st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)
FINGERPRINT = bytes(range(KEY_BYTES))


@st.composite
def headers(draw: st.DrawFn) -> RecordHeader:
    parts = draw(st.integers(1, 9))
    record_bytes = draw(st.integers(parts, 1 << 40))
    return RecordHeader(
        key=draw(keys),
        parent=draw(keys),
        fingerprint=FINGERPRINT,
        token_ids=pack_tokens(draw(st.lists(st.integers(0, 2**31 - 1), max_size=40))),
        serial=draw(st.integers(0, 2**63)),
        part=draw(st.integers(0, parts - 1)),
        parts=parts,
        record_bytes=record_bytes,
        part_bytes=draw(st.integers(1, min(record_bytes, 2**32 - 1))),
        checksum=draw(st.integers(0, 2**32 - 1)),
        written_ms=draw(st.integers(0, 2**62)),
    )


@given(headers(), st.binary(max_size=600))
def test_a_header_comes_back(header: RecordHeader, behind: bytes) -> None:
    data = encode_header(header)
    assert decode_header(data + behind, FINGERPRINT) == header
    assert not is_blank(data)


@given(headers(), st.data())
def test_a_flipped_bit_is_noticed(header: RecordHeader, data: st.DataObject) -> None:
    whole = bytearray(encode_header(header))
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(DamagedError):
        decode_header(bytes(whole), FINGERPRINT)


@given(headers(), st.data())
def test_a_cut_header_is_noticed(header: RecordHeader, data: st.DataObject) -> None:
    whole = encode_header(header)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    with pytest.raises(DamagedError):
        decode_header(cut, FINGERPRINT)
    with pytest.raises(DamagedError):
        decode_header(cut.ljust(len(whole), b"\0"), FINGERPRINT) if cut.rstrip(
            b"\0"
        ) != whole.rstrip(b"\0") else decode_header(b"", FINGERPRINT)


@given(headers())
def test_a_header_of_another_model_is_refused(header: RecordHeader) -> None:
    with pytest.raises(DamagedError, match="another model"):
        decode_header(encode_header(header), bytes(KEY_BYTES))


def test_nonsense_with_a_right_checksum_is_refused() -> None:
    data = bytearray(512)
    with pytest.raises(DamagedError):
        decode_header(bytes(data), FINGERPRINT)
    data[-4:] = zlib.crc32(data[:-4]).to_bytes(4, "little")
    with pytest.raises(DamagedError):
        decode_header(bytes(data), FINGERPRINT)


@given(keys, st.integers(0, 2**63), st.binary(min_size=1, max_size=200), st.data())
def test_a_payload_belongs_to_one_record(
    key: bytes, serial: int, payload: bytes, data: st.DataObject
) -> None:
    own = payload_checksum(payload, key, serial, 0)
    assert payload_checksum(payload, key, serial, 1) != own
    assert payload_checksum(payload, key, serial ^ 1, 0) != own
    flipped = bytearray(payload)
    flipped[data.draw(st.integers(0, len(payload) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert payload_checksum(bytes(flipped), key, serial, 0) != own


@given(
    st.integers(1, 1 << 23),
    st.integers(1, 1024),
    st.integers(0, 1 << 28),
)
def test_nothing_of_a_segment_overlaps(block_bytes: int, block_tokens: int, size: int) -> None:
    layout = plan_layout(block_bytes, block_tokens, size)
    last = layout.extents - 1
    assert layout.payload_bytes >= block_bytes
    assert layout.payload_bytes % PAGE_BYTES == layout.payloads_at % PAGE_BYTES == 0
    assert layout.header_bytes % SECTOR_BYTES == layout.headers_at % SECTOR_BYTES == 0
    assert layout.headers_at >= PAGE_BYTES + 8 * layout.extents
    assert layout.payloads_at >= layout.header_at(last) + layout.header_bytes
    assert layout.file_bytes(layout.extents) == layout.payload_at(last) + layout.payload_bytes
    if layout.extents > 1:
        assert layout.file_bytes(layout.extents) <= size
    full = RecordHeader(
        key=bytes(KEY_BYTES),
        parent=bytes(KEY_BYTES),
        fingerprint=FINGERPRINT,
        token_ids=bytes(4 * block_tokens),
        serial=0,
        part=0,
        parts=1,
        record_bytes=1,
        part_bytes=1,
        checksum=0,
        written_ms=0,
    )
    assert len(encode_header(full)) <= layout.header_bytes


@given(st.text(max_size=5000))
def test_a_superblock_comes_back(words: str) -> None:
    data = encode_superblock(Superblock(FINGERPRINT, Layout(3, 512, 8192), words))
    assert len(data) == PAGE_BYTES
    found = decode_superblock(data)
    assert found.layout == Layout(3, 512, 8192)
    assert words.startswith(found.words)
    assert found.words == words or len(found.words.encode()) > PAGE_BYTES - 100


@given(st.integers(0, 8 * PAGE_BYTES - 1))
def test_a_flipped_bit_of_a_superblock_is_noticed(bit: int) -> None:
    data = bytearray(encode_superblock(Superblock(FINGERPRINT, Layout(3, 512, 8192), "x")))
    data[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(DamagedError):
        decode_superblock(bytes(data))


def test_parts_of_a_fingerprint_do_not_run_together() -> None:
    assert fingerprint_of("ab", "c", 16, 1) != fingerprint_of("a", "bc", 16, 1)
    assert fingerprint_of("a", "b", 1, 61) != fingerprint_of("a", "b", 16, 1)
