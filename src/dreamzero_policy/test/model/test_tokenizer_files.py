"""The tokenizer of released models: files of their own, padded, and named when they are missing."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from dreamzero_policy.model.conditioning import FileTokenizer, TokenizerError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Words to ids: pad 0, end 1, unknown 2, pick 3, place 4."""
    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "pick": 3, "place": 4}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    path = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(path)
    return path


def test_prompts_are_cleaned_ended_and_padded_to_the_models_length(folder):
    ids, mask = FileTokenizer(folder, text_length=5, vocab_size=5)(["pick  place", "pick &amp;amp;"])
    assert ids.tolist() == [[3, 4, 1, 0, 0], [3, 2, 1, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]
    assert ids.dtype == torch.int64


def test_a_prompt_that_is_too_long_loses_its_end_as_in_training_and_that_is_said(folder, caplog):
    ids, _ = FileTokenizer(folder, text_length=3, vocab_size=5)(["pick place pick"])
    assert ids.tolist() == [[3, 4, 1]]
    assert "a prompt of 4 tokens is cut to 3: 'pick place pick'" in caplog.text


def test_missing_files_and_too_many_tokens_are_refused_with_the_folder(folder, tmp_path):
    with pytest.raises(TokenizerError, match=r"no tokenizer at .*nowhere: it is not a directory"):
        FileTokenizer(tmp_path / "nowhere", 5, 5)
    with pytest.raises(TokenizerError, match="cannot be loaded"):
        FileTokenizer(tmp_path, 5, 5)
    with pytest.raises(TokenizerError, match="has 5 tokens, the text encoder knows 4"):
        FileTokenizer(folder, 5, 4)
