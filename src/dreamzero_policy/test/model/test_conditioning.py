"""Prompts to ids and features, pictures to the image tower's input."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from dreamzero_policy.model.conditioning import (
    ByteTokenizer,
    PromptTooLongError,
    TextConditioner,
    build_text_encoder,
    clean_prompt,
    clip_pixels,
)


def test_the_ids_of_a_prompt_are_its_bytes_plus_three_and_an_end():
    ids, mask = ByteTokenizer(text_length=6)(["ab", "é"])
    assert ids.tolist() == [[97 + 3, 98 + 3, 1, 0, 0, 0], [0xC3 + 3, 0xA9 + 3, 1, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]]


@given(st.text(max_size=40))
def test_ids_lead_back_to_the_cleaned_prompt(prompt):
    ids, mask = ByteTokenizer(text_length=512)([prompt])
    tokens = ids[0, : mask[0].sum()].tolist()
    assert tokens[-1] == 1
    assert bytes(token - 3 for token in tokens[:-1]).decode() == clean_prompt(prompt)


def test_a_prompt_is_unescaped_composed_and_collapsed():
    assert clean_prompt("  pick &amp;amp; place\n\t e\u0301 ") == "pick & place é"


def test_a_prompt_that_does_not_fit_is_refused_with_both_lengths():
    assert ByteTokenizer(text_length=4)(["abc"])[1].sum() == 4
    with pytest.raises(PromptTooLongError, match="has 4 bytes, this model takes at most 3: 'abcd'"):
        ByteTokenizer(text_length=4)(["abcd"])


def test_features_are_zero_beyond_each_prompts_own_length(small_config):
    torch.manual_seed(0)
    sizes = small_config.text_encoder
    text = TextConditioner(build_text_encoder(sizes).eval(), ByteTokenizer(sizes.text_length))
    with torch.no_grad():
        features = text.encode(["push the red cube", ""])
        alone = text.encode([""])
    assert features.shape == (2, sizes.text_length, sizes.dim)
    used = features.abs().sum(-1) > 0
    assert used[0].tolist() == [True] * 18 + [False] * (sizes.text_length - 18)
    assert used[1].sum() == 1
    torch.testing.assert_close(features[1:], alone)


def test_a_picture_of_the_towers_size_keeps_every_pixel():
    red = clip_pixels(torch.tensor([[-1.0, 0.0], [0.5, 1.0]]).expand(1, 3, 2, 2), 2)[0, 0]
    mean, std = 0.48145466, 0.26862954  # CLIP's, of red in [0, 1]
    torch.testing.assert_close(red * std + mean, torch.tensor([[0.0, 0.5], [0.75, 1.0]]))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_resize_to_its_own_size_would_not_have_changed_the_picture(layout):
    picture = (torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(memory_format=layout)
    assert torch.equal(F.interpolate(picture, (32, 32), mode="bicubic", align_corners=False), picture)
