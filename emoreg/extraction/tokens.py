"""Texts, cut into tokens as the model will see them.

Shapes: T positions.
"""

import logging
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from emoreg.corpus import Reply, read_from
from emoreg.model import embeddings, unwrap

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tokens:
    """A text cut into tokens, special ones included."""

    packed: array
    """Their ids, int32. There may be hundreds of thousands of texts, and a small tensor takes a kilobyte of its own."""
    first: int
    """The first position that is read. Never 0: where no BOS takes it, the text's own first token serves as the
    attention sink, and its residual can be a hundred times as long as any other."""
    end: int
    """One past the last that is read."""

    @property
    def ids(self) -> Int[Tensor, " T"]:
        """Their ids as a tensor, int32."""
        return torch.frombuffer(self.packed, dtype=torch.int32)

    def __len__(self) -> int:
        return len(self.packed)


def tokenise(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], from_token: int = 1
) -> list[Tokens]:
    """Cut texts as the tokenizer does by default, BOS included if it adds one, no longer than the model's context.

    Args:
        model: the model that will see them.
        tokenizer: its tokenizer.
        texts: a `Passage` is read from its character on, and a `Reply` has its special tokens already.
        from_token: which of a text's own tokens is the first that is read, counted from 1 without BOS. A text that has
            fewer is read from its first, with a warning.

    Raises:
        ValueError: for a text without a token to read, or a tokenizer that is not the model's.
    """
    if from_token < 1:
        raise ValueError(f"from_token counts from 1, got {from_token}")
    config = unwrap(model).config.get_text_config(decoder=True)  # pyright: ignore
    names = ("max_position_embeddings", "max_seq_len")  # MPT's
    context = next((getattr(config, name) for name in names if getattr(config, name, None)), None)
    n_embeddings = embeddings(model).num_embeddings
    tokens, n_long, n_short = [], 0, 0
    for text, ids, special in _encoded(tokenizer, texts):
        n_long += context is not None and len(ids) > context
        ids, special = ids[:context], special[:context]
        begin, end = 0, len(ids)
        while begin < end and (special[begin] or ids[begin] == tokenizer.bos_token_id):
            begin += 1
        while end > begin and special[end - 1]:
            end -= 1
        if start := read_from(text):
            begin = max(begin, _token_at(tokenizer, text, start))
        if end <= max(begin, 1):
            raise ValueError(
                f"text {text[:40]!r} has no token to read: it is empty, a single token without a BOS, or starts to be "
                "read behind its end"
            )
        if max(ids) >= n_embeddings:
            raise ValueError(
                f"the tokenizer gave token {max(ids)}, but the model has {n_embeddings} embeddings; "
                "use the model's own tokenizer"
            )
        is_short = end - begin < from_token
        n_short += is_short
        tokens.append(Tokens(array("i", ids), max(begin + (0 if is_short else from_token - 1), 1), end))
    if n_long:
        logger.warning(
            "%d of %d texts are longer than the context (%d tokens) and were cut", n_long, len(texts), context
        )
    if n_short:
        logger.warning(
            "%d of %d texts have fewer than %d tokens; all of theirs are read", n_short, len(texts), from_token
        )
    return tokens


def _token_at(tokenizer: PreTrainedTokenizerBase, text: str, character: int) -> int:
    """Position of the first token that ends behind a character; past the end if there is none."""
    adds = not isinstance(text, Reply)
    offsets = tokenizer(text, add_special_tokens=adds, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    # Special tokens lie at (0, 0); a byte-level token counts the space before its word as its own.
    return next((n for n, (_, end) in enumerate(offsets) if end > character), len(offsets))


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[tuple[str, list[int], list[int]]]:
    """Each text, its token ids, and which of these the tokenizer added. Some at a time: lists of ints are large."""
    for at in range(0, len(texts), 1024):
        for is_reply, run in groupby(texts[at : at + 1024], lambda text: isinstance(text, Reply)):
            chunk = list(run)
            encoded = tokenizer(
                chunk,
                add_special_tokens=not is_reply,
                padding=False,
                truncation=False,
                return_attention_mask=False,
                return_special_tokens_mask=True,
                verbose=False,
            )
            yield from zip(chunk, encoded["input_ids"], encoded["special_tokens_mask"], strict=True)
