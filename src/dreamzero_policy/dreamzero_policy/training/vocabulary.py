"""The vocabulary of a small text encoder: byte pairs merged where they occur together in the instructions.

Common words become one token each; a word that training never read falls into pieces, down to bytes, so that any
prompt can be written. Ids: 0 padding, 1 end, then the 256 bytes, then merges. The files are those of transformers and
go into a checkpoint's folder `tokenizer/`.
"""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from dreamzero_policy.model.conditioning import clean_prompt

PADDING, END = "<pad>", "</s>"


class VocabularyError(ValueError):
    """The text encoder knows too few tokens; the message holds both numbers."""


def fit_vocabulary(prompts: Iterable[str], vocab_size: int, folder: Path) -> int:
    """Write a tokenizer of at most ``vocab_size`` tokens; returns how many it has.

    Raises:
        VocabularyError: ``vocab_size`` does not even hold the bytes.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(alphabet) + 2
    if vocab_size < least:
        raise VocabularyError(
            f"text_encoder.vocab_size is {vocab_size}, a byte-level vocabulary needs at least {least}"
        )
    tokenizer = Tokenizer(models.BPE())
    # The space before a word belongs to it, so a word is the same token at the beginning and inside of a prompt.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[PADDING, END], initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator((clean_prompt(prompt) for prompt in prompts), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, 1)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PADDING, eos_token=END).save_pretrained(folder)
    return tokenizer.get_vocab_size()
