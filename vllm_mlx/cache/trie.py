"""The prefix index: which block holds which tokens after which prefix. No arrays.

An edge is one full block. Its key chains the key of its parent with the block's own tokens, so
equal tokens after different prefixes are different blocks. The index holds one reference to each
block it knows; blocks that only the index holds are evicted least recently used, leaves first.
"""

import heapq
from hashlib import blake2b

import numpy as np

from vllm_mlx.cache.blocks import BlockPool

ROOT = b""


class Node:
    """One block in the index."""

    __slots__ = ("block_id", "key", "num_children", "parent", "used_at")

    def __init__(self, key: bytes, parent: bytes, block_id: int) -> None:
        self.key, self.parent, self.block_id = key, parent, block_id
        self.num_children = 0
        self.used_at = 0


class PrefixTrie:
    """Longest-prefix lookup over blocks of ``block_tokens`` tokens; see the module docstring."""

    def __init__(self, pool: BlockPool, block_tokens: int) -> None:
        self._pool, self._block_tokens = pool, block_tokens
        self._nodes: dict[bytes, Node] = {}
        self._clock = 0
        self._candidates: list[tuple[int, bytes]] = []  # heap of (used_at, key); may be stale

    def __len__(self) -> int:
        return len(self._nodes)

    def keys_of(self, tokens: tuple[int, ...] | list[int]) -> list[bytes]:
        """The chained key of every full block of ``tokens``."""
        size = self._block_tokens
        data = np.asarray(tokens, dtype="<i4").tobytes()
        keys, parent = [], ROOT
        for end in range(size, len(tokens) + 1, size):
            parent = blake2b(parent + data[(end - size) * 4 : end * 4], digest_size=16).digest()
            keys.append(parent)
        return keys

    def match(self, keys: list[bytes]) -> list[int]:
        """Blocks of the longest known run of ``keys``, pinned once for the caller."""
        blocks = []
        self._clock += 1
        for key in keys:
            node = self._nodes.get(key)
            if node is None:
                break
            node.used_at = self._clock
            blocks.append(node.block_id)
        self._pool.pin(blocks)
        return blocks

    def insert(self, keys: list[bytes], block_ids: list[int]) -> None:
        """Index ``block_ids`` under ``keys``, from the first block of a sequence on.

        Where a key is there already, the older block stays and the newer is not indexed.
        """
        self._clock += 1
        parent = ROOT
        for key, block_id in zip(keys, block_ids, strict=True):
            node = self._nodes.get(key)
            if node is None:
                node = self._nodes[key] = Node(key, parent, block_id)
                self._pool.pin([block_id])
                if parent != ROOT:
                    self._nodes[parent].num_children += 1
            node.used_at = self._clock
            parent = key

    def evict(self, num_blocks: int) -> int:
        """Drop up to ``num_blocks`` blocks that nobody else holds; returns how many became free."""
        freed = 0
        while freed < num_blocks:
            victim = self._oldest_leaf()
            if victim is None:
                return freed
            self._remove(victim)
            freed += 1
        return freed

    def evictable_blocks(self) -> int:
        """How many blocks nobody but the index holds. May be asked from any thread."""
        nodes = list(self._nodes.values())  # one step: the index may change meanwhile
        return sum(self._pool.references(node.block_id) == 1 for node in nodes)

    def _oldest_leaf(self) -> Node | None:
        while True:
            if not self._candidates:
                leaves = (node for node in self._nodes.values() if self._is_free_leaf(node))
                self._candidates = [(leaf.used_at, leaf.key) for leaf in leaves]
                heapq.heapify(self._candidates)
                if not self._candidates:
                    return None
            used_at, key = heapq.heappop(self._candidates)
            node = self._nodes.get(key)
            if node is not None and node.used_at == used_at and self._is_free_leaf(node):
                return node

    def _is_free_leaf(self, node: Node) -> bool:
        return node.num_children == 0 and self._pool.references(node.block_id) == 1

    def _remove(self, node: Node) -> None:
        del self._nodes[node.key]
        self._pool.release([node.block_id])
        if node.parent != ROOT:
            parent = self._nodes[node.parent]
            parent.num_children -= 1
            if self._is_free_leaf(parent):  # it may be older than the leaves that are left
                heapq.heappush(self._candidates, (parent.used_at, parent.key))
