"""The index against a plain list: who is there, and who goes first."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from vllm_mlx.cache.disk_index import DiskIndex, Record
from vllm_mlx.cache.disk_scan import records_of
from vllm_mlx.cache.extents import NO_PARENT, RecordHeader
from vllm_mlx.cache.volume import Found

paths = st.lists(st.integers(0, 1), min_size=1, max_size=5).map(tuple)  # a trie of two branches
Path = tuple[int, ...]


def key_of(path: Path) -> bytes:
    return bytes([2 + branch for branch in path]).ljust(16, b"\1") if path else NO_PARENT


class IndexMachine(RuleBasedStateMachine):
    """Records come, are used, pinned, dropped and evicted; also before their parents."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1.0
        self.free: list[int] = []
        self.index = DiskIndex(self.free.extend, lambda: self.now)
        self.used: dict[Path, float] = {}
        self.extents: dict[Path, tuple[int, ...]] = {}
        self.pinned: list[tuple[Path, Record]] = []
        self.num_extents = 0

    @rule(path=paths, parts=st.integers(1, 3))
    def add(self, path: Path, parts: int) -> None:
        self.now += 1
        extents = tuple(range(self.num_extents, self.num_extents + parts))
        record = Record(
            key_of(path),
            key_of(path[:-1]),
            b"",
            extents,
            parts,
            (0,) * parts,
            0,
            self.index.now_ms(),
        )
        assert self.index.add(record) == (path not in self.used)
        if path not in self.used:
            self.num_extents += parts
            self.used[path], self.extents[path] = self.now, extents

    @rule(path=paths)
    def touch(self, path: Path) -> None:
        self.now += 1
        self.index.touch([key_of(path)])
        if path in self.used:
            self.used[path] = self.now

    @rule(path=paths)
    def pin(self, path: Path) -> None:
        pinned = self.index.pin([key_of(path)])
        assert len(pinned) == (path in self.used)
        self.pinned += [(path, record) for record in pinned]

    @rule()
    def unpin(self) -> None:
        if self.pinned:
            self.index.unpin([self.pinned.pop(0)[1]])

    @rule(path=paths)
    def drop(self, path: Path) -> None:
        record = self.index.get(key_of(path))
        assert (record is not None) == (path in self.used)
        if record is not None:
            self.index.drop(record)
            self.forget(path)

    @rule(wanted=st.integers(1, 4))
    def evict(self, wanted: int) -> None:
        victims: list[Path] = []
        freed = 0
        while freed < wanted and (leaves := self.leaves()):
            oldest = min(leaves, key=lambda path: (self.used[path], key_of(path)))
            freed += len(self.extents[oldest])
            victims.append(oldest)
            self.forget(oldest)
        before = len(self.free)
        assert self.index.evict(wanted) == len(victims)
        assert len(self.free) - before == freed

    @rule()
    def clear(self) -> None:
        self.index.clear()
        for path in list(self.used):
            self.forget(path)
            self.num_extents += 0
        self.free.clear()

    def leaves(self) -> list[Path]:
        """Present, nobody's parent, and not being read."""
        parents = {path[:-1] for path in self.used}
        held = {id(record) for _, record in self.pinned}
        return [
            path
            for path in self.used
            if path not in parents and id(self.index.get(key_of(path))) not in held
        ]

    def forget(self, path: Path) -> None:
        del self.used[path], self.extents[path]

    @invariant()
    def it_knows_what_is_there(self) -> None:
        assert sorted(self.index.keys()) == sorted(key_of(path) for path in self.used)
        assert self.index.payload_bytes == sum(len(extents) for extents in self.extents.values())

    @invariant()
    def nothing_is_free_twice_or_while_in_use(self) -> None:
        assert len(set(self.free)) == len(self.free)
        held = {extent for extents in self.extents.values() for extent in extents}
        held |= {extent for _, record in self.pinned for extent in record.extents}
        assert not held & set(self.free)


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(max_examples=60, stateful_step_count=40)


def header(key: int, serial: int, part: int, parts: int, sizes: list[int]) -> RecordHeader:
    return RecordHeader(
        key=bytes([key] * 16),
        parent=NO_PARENT,
        fingerprint=bytes(16),
        token_ids=b"",
        serial=serial,
        part=part,
        parts=parts,
        record_bytes=sum(sizes),
        part_bytes=sizes[part],
        checksum=part,
        written_ms=5,
    )


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(1, 3)), max_size=8))
def test_only_whole_records_are_found(written: list[tuple[int, int, int]]) -> None:
    """Of every record in turn one part is missing, or none; of equal keys the last one counts."""
    found: list[Found] = []
    whole: dict[int, int] = {}
    for serial, (key, missing, parts) in enumerate(written):
        for part in range(parts):
            if part != missing:
                one = header(key, serial, part, parts, [4] * parts)
                found.append(Found(len(found), one, 99))
        if missing >= parts:
            whole[key] = serial
    found.reverse()
    records, unused = records_of(found, 50)
    assert {record.key[0]: record.serial for record in records} == whole
    kept = [extent for record in records for extent in record.extents]
    assert sorted(kept + unused) == list(range(len(found)))
    assert all(record.used_ms == 50 for record in records)


def test_parts_that_disagree_are_no_record() -> None:
    first, second = header(1, 1, 0, 2, [4, 4]), header(1, 1, 1, 2, [4, 5])
    assert records_of([Found(0, first, 0), Found(1, second, 0)], 9) == ([], [0, 1])
