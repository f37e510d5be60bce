"""The memory of the past: what is written, what is only looked at, what branches share."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamzero_policy.model.cache import CacheFullError, KVCache
from dreamzero_policy.model.tokens import CLEAN, TokenLayout, rotate


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
    fill(cache, tokens(1))
    copy = cache.clone()
    cache.keys.zero_()
    address = cache.keys.data_ptr()
    cache.clear()
    assert (cache.length, copy.length) == (0, 1)
    assert copy.keys[0, :, :, 0].abs().sum() > 0
    assert (cache.capacity, cache.keys.data_ptr()) == (5, address)


# ---------------------------------------------------------------- branches


def fill(cache: KVCache, new: torch.Tensor) -> None:
    """Observe the tokens: the same in every layer, keys as values."""
    for layer in range(len(cache.keys)):
        cache.append(layer, new, new)
    cache.advance(new.shape[2])


def past(cache: KVCache) -> torch.Tensor:
    return torch.stack([cache.keys, cache.values])[:, :, :, :, : cache.length].clone()


def test_a_fork_copies_when_both_have_written_and_not_before():
    cache = empty()
    fill(cache, tokens(2))
    fork = cache.fork()
    assert fork.keys.data_ptr() == cache.keys.data_ptr()
    fill(cache, tokens(1))  # in place, behind the common past
    assert fork.keys.data_ptr() == cache.keys.data_ptr()
    assert (cache.length, fork.length) == (3, 2)
    before = past(cache)
    fill(fork, tokens(2))
    assert fork.keys.data_ptr() != cache.keys.data_ptr()
    assert torch.equal(past(cache), before)
    assert torch.equal(past(fork)[..., :2, :], before[..., :2, :])


def test_it_does_not_matter_which_branch_writes_first():
    cache = empty()
    fill(cache, tokens(2))
    fork, before = cache.fork(), past(cache)
    new, other = tokens(2), tokens(1)
    fill(fork, other)
    fill(cache, new)
    assert torch.equal(past(cache), torch.cat([before, new.expand(2, 2, *new.shape)], dim=4))
    assert torch.equal(past(fork), torch.cat([before, other.expand(2, 2, *other.shape)], dim=4))


def test_clearing_a_branch_leaves_the_other_its_past():
    cache = empty()
    fill(cache, tokens(2))
    fork, before = cache.fork(), past(cache)
    cache.clear()
    fill(cache, tokens(3))
    assert torch.equal(past(fork), before)


@given(
    verbs=st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["append", "append", "fork", "forget", "clear"])), max_size=20
    )
)
@settings(deadline=None, max_examples=100)
def test_branches_behave_like_independent_lists(verbs):
    """Any order of verbs on any branches; the model of a branch is the list of its tokens' numbers."""
    still = torch.ones(1, 2, dtype=torch.complex64)  # a turn by nothing
    branches: list[tuple[KVCache, list[float]]] = [(empty(batch=1), [])]
    for number, (which, verb) in enumerate(verbs, start=1):
        cache, expected = branches[which % len(branches)]
        if verb == "append" and len(expected) < cache.capacity:
            fill(cache, torch.full((1, 1, 1, 4), float(number)))
            expected.append(float(number))
        elif verb == "fork" and len(branches) < 4:
            branches.append((cache.fork(), list(expected)))
        elif verb == "forget" and len(expected) > 2:
            cache.forget(1, 2, still)
            del expected[1]
        elif verb == "clear":
            cache.clear()
            expected.clear()
    for cache, expected in branches:
        assert past(cache)[:, 0, 0, 0, :, 0].tolist() == [expected, expected]
        assert past(cache)[:, -1, 0, 0, :, -1].tolist() == [expected, expected]


# ---------------------------------------------------------------- rolling


@given(head_dim=st.sampled_from([16, 32, 128]), leaving=st.integers(1, 3), left=st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_keys_turned_on_are_keys_rotated_at_their_new_positions(head_dim, leaving, left):
    """To rounding of a rotation of numbers around 1."""
    layout, rows, columns = TokenLayout(leaving, 3, head_dim), 2, 3
    per_frame, device = rows * columns, torch.device("cpu")

    def rotated(keys: torch.Tensor, first_frame: int) -> torch.Tensor:
        tokens = layout.video(CLEAN, first_frame, keys.shape[2] // per_frame, rows, columns, device)
        return rotate(keys, tokens.phase)

    frames = 1 + leaving + left
    raw = torch.randn(1, 2, frames * per_frame, head_dim)
    cache = KVCache.empty(
        layers=1, batch=1, capacity=raw.shape[2], heads=2, head_dim=head_dim, device=device, dtype=torch.float32
    )
    cache.append(0, rotated(raw, 0), raw)
    cache.advance(raw.shape[2])
    cache.forget(per_frame, per_frame * (1 + leaving), layout.shift(-leaving, device))

    sink, rest = raw[:, :, :per_frame], raw[:, :, per_frame * (1 + leaving) :]
    keys, values = cache.keys[0, :, :, : cache.length], cache.values[0, :, :, : cache.length]
    assert torch.equal(values, torch.cat([sink, rest], dim=2))
    assert torch.equal(keys[:, :, :per_frame], rotated(sink, 0))
    torch.testing.assert_close(keys[:, :, per_frame:], rotated(rest, 1), rtol=0, atol=2e-6)


def test_forgetting_in_one_branch_leaves_the_other_its_past():
    cache = empty()
    fill(cache, tokens(4))
    fork, before = cache.fork(), past(cache)
    fork.forget(1, 3, torch.ones(1, 2, dtype=torch.complex64))
    assert fork.length == 2
    assert torch.equal(past(fork), before[..., [0, 3], :])
    assert torch.equal(past(cache), before)
