"""The policy costs the link less than LRU by blob, after restarts as well, and the bound less than both, on a small
trace."""

from __future__ import annotations

import random

from benchmarks.eviction_trace import SEED, ByPolicy, Clairvoyant, LruByBlob, World, replayed


def test_the_policy_brings_a_tenth_fewer_bytes_over_the_link_than_lru_by_blob() -> None:
    world = World(random.Random(SEED))
    trace, room = world.trace(random.Random(SEED), 2500), sum(world.sizes) // 12
    lru = replayed(LruByBlob(world.sizes, room), trace, world.sizes).link
    policy = replayed(ByPolicy(world.sizes, room), trace, world.sizes).link
    bound = replayed(Clairvoyant(world.sizes, room, trace), trace, world.sizes).link
    restarted = replayed(ByPolicy(world.sizes, room, remembers=False), trace, world.sizes).link
    assert bound < policy < restarted <= 0.9 * lru
