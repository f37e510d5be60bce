"""The memory of the past: what is written, what is only looked at."""

import pytest
import torch

from dreamzero_policy.model.cache import CacheFullError, KVCache


def empty(capacity: int = 5, batch: int = 2) -> KVCache:
    return KVCache.empty(
        layers=2, batch=batch, capacity=capacity, heads=1, head_dim=4, device="cpu", dtype=torch.float32
    )


def tokens(count: int, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 1, count, 4)


def test_appended_tokens_are_past_only_after_advance():
    cache, key, value = empty(), tokens(3), tokens(3)
    assert torch.equal(cache.append(0, key, value)[0], key)
    assert cache.length == 0
    cache.append(1, key, value)
    cache.advance(3)
    more = tokens(2)
    joined = cache.join(0, more, more)[0]
    assert torch.equal(joined, torch.cat([key, more], dim=2))


def test_joining_changes_nothing():
    cache = empty()
    cache.append(0, tokens(3), tokens(3))
    cache.advance(3)
    before = cache.clone()
    joined, _ = cache.join(0, tokens(2), tokens(2))
    joined.zero_()
    assert cache.length == before.length
    assert torch.equal(cache.keys[0, :, :, :3], before.keys[0, :, :, :3])


def test_one_row_stands_for_all_rows_while_they_are_equal():
    cache, key = empty(), tokens(2, batch=1)
    assert cache.append(0, key, key)[0].shape[0] == 1
    cache.advance(2)
    assert torch.equal(cache.keys[0, 0, :, :2], cache.keys[0, 1, :, :2])
    assert cache.join(0, key, key)[0].shape == (1, 1, 4, 4)


def test_a_full_cache_says_how_full():
    cache = empty(capacity=4)
    cache.advance(3)
    with pytest.raises(CacheFullError, match="holds 4 tokens, 3 \\+ 2 do not fit"):
        cache.append(0, tokens(2), tokens(2))


def test_a_clone_is_independent_and_clear_keeps_the_memory():
    cache = empty()
    cache.append(0, tokens(1), tokens(1))
    cache.advance(1)
    copy = cache.clone()
    cache.keys.zero_()
    cache.clear()
    assert (cache.length, copy.length) == (0, 1)
    assert copy.keys[0, :, :, 0].abs().sum() > 0
    assert cache.capacity == 5
