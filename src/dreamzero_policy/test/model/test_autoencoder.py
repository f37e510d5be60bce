"""A running camera is encoded as its whole clip would be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamzero_policy.model.autoencoder import (
    Stream,
    VideoAutoencoder,
    build_autoencoder,
    restarted_clip,
    speed_up_on_cpu,
    to_uint8,
    to_video,
)


@pytest.fixture(scope="module")
def autoencoder(small_config) -> VideoAutoencoder:
    torch.manual_seed(0)
    return VideoAutoencoder(build_autoencoder(small_config.autoencoder).eval().requires_grad_(False))


CLIP = torch.rand(1, 3, 17, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


@given(cuts=st.lists(st.sampled_from([4, 8, 12, 16]), min_size=1, max_size=4).filter(lambda c: sum(c) == 16))
@settings(deadline=None, max_examples=8)
def test_any_cut_of_a_stream_gives_the_latents_of_the_whole_clip(autoencoder, cuts):
    whole, stream = autoencoder.encode(CLIP, Stream()), Stream()
    parts = [autoencoder.encode(part, stream) for part in CLIP.split([1, *cuts], dim=2)]
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=0, atol=1e-5)
    assert whole.shape == (1, 16, 5, 4, 4)
    assert stream.frames == 17


def test_the_stream_is_the_stock_whole_clip_encoding(autoencoder):
    stock = autoencoder.network.encode(CLIP).latent_dist.mode()
    torch.testing.assert_close(autoencoder.encode(CLIP, Stream()), stock, rtol=0, atol=1e-5)


def test_any_cut_of_the_latents_decodes_to_the_whole_clip(autoencoder):
    latents, stream = autoencoder.encode(CLIP, Stream()), Stream()
    parts = [autoencoder.decode(part, stream) for part in latents.split([1, 2, 2], dim=2)]
    assert [part.shape[2] for part in parts] == [1, 8, 8]
    torch.testing.assert_close(torch.cat(parts, 2), autoencoder.network.decode(latents).sample, rtol=0, atol=1e-5)


def test_a_branch_leaves_the_stream_where_it_was(autoencoder):
    stream = Stream()
    autoencoder.encode(CLIP[:, :, :1], stream)
    expected = autoencoder.encode(CLIP[:, :, 1:9], stream.copy())
    autoencoder.encode(torch.zeros_like(CLIP[:, :, 1:9]), stream.copy())
    assert torch.equal(autoencoder.encode(CLIP[:, :, 1:9], stream), expected)


def test_the_image_condition_is_the_first_frame_then_grey(autoencoder):
    stream, first = Stream(), CLIP[:, :, :1]
    latent = autoencoder.encode(first, stream)
    condition = autoencoder.image_condition(latent, stream, 5, first.shape)
    assert condition.shape == (1, 20, 5, 4, 4)
    assert torch.equal(condition[:, :4, 0], torch.ones(1, 4, 4, 4))
    assert torch.equal(condition[:, :4, 1:], torch.zeros(1, 4, 4, 4, 4))
    clip = torch.cat([first, torch.zeros(1, 3, 16, 32, 32)], 2)
    torch.testing.assert_close(condition[:, 4:], autoencoder.encode(clip, Stream()), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("frames", "started", "expected"), [(4, False, "1, 5, 9"), (5, True, "4, 8"), (3, True, "4, 8")]
)
def test_a_wrong_number_of_frames_names_the_right_ones(autoencoder, frames, started, expected):
    stream = Stream()
    if started:
        autoencoder.encode(CLIP[:, :, :1], stream)
    with pytest.raises(ValueError, match=f"{expected}.*got {frames}"):
        autoencoder.encode(CLIP[:, :, :frames], stream)


@pytest.mark.parametrize("fast", [False, True], ids=["plain", "fast"])
def test_a_batch_of_two_is_two_clips(autoencoder, small_config, fast):
    """Encoded as streams, with image condition, and decoded: to rounding, since kernels sum in another order."""
    if fast:
        torch.manual_seed(0)
        autoencoder = VideoAutoencoder(build_autoencoder(small_config.autoencoder).eval().requires_grad_(False))
        speed_up_on_cpu(autoencoder.network)
    both = torch.cat([CLIP, CLIP.flip(2)])

    def run(clip: torch.Tensor) -> list[torch.Tensor]:
        stream = Stream()
        first = autoencoder.encode(clip[:, :, :1], stream)
        condition = autoencoder.image_condition(first, stream, 5, clip[:, :, :1].shape)
        latents = torch.cat([first, autoencoder.encode(clip[:, :, 1:9], stream)], dim=2)
        return [condition, latents, autoencoder.decode(latents, Stream())]

    for together, one, other in zip(run(both), run(both[:1]), run(both[1:]), strict=True):
        torch.testing.assert_close(together, torch.cat([one, other]), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("given_frames", "clip"),
    [
        ([1, 2, 3, 4], [1, 1, 1, 2, 2, 3, 3, 4, 4]),  # half of a block: doubled, and the first once more
        ([1, 2, 3, 4, 5, 6, 7, 8], [1, 1, 2, 3, 4, 5, 6, 7, 8]),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9], [1, 2, 3, 4, 5, 6, 7, 8, 9]),
    ],
)
def test_a_block_alone_is_made_a_clip_as_the_release_does(given_frames, clip):
    video = torch.tensor(given_frames).view(1, 1, -1, 1, 1)
    assert restarted_clip(video, latent_frames=2).flatten().tolist() == clip


@pytest.mark.parametrize("frames", [0, 1, 2, 5, 6, 7, 10, 12])
def test_a_block_of_another_length_is_refused(frames):
    with pytest.raises(ValueError, match=f"made of 8, 9 or n times fewer than 8 frames .*, got {frames}"):
        restarted_clip(torch.zeros(1, 1, frames, 1, 1), latent_frames=2)


def test_the_fast_kernels_give_the_plain_latents(autoencoder, small_config):
    torch.manual_seed(0)
    fast = VideoAutoencoder(build_autoencoder(small_config.autoencoder).eval().requires_grad_(False))
    speed_up_on_cpu(fast.network)
    torch.testing.assert_close(fast.encode(CLIP, Stream()), autoencoder.encode(CLIP, Stream()), rtol=0, atol=1e-5)


def test_pixels_survive_the_round_trip():
    frames = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    video = to_video(frames, "cpu", torch.float32)
    assert video.shape == (1, 3, 2, 4, 4)
    assert video[0, 0, 0, 0, 0] == -1
    assert np.array_equal(to_uint8(video), frames)
