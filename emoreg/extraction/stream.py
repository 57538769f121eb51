"""Texts through the model, each once, into moments.

Shapes: B batch, T positions, D width, N rows, G groups.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from emoreg.extraction.moments import Moments, MomentsFitter
from emoreg.residual import evaluating, run_to, unwrap

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tokens:
    """A text cut into tokens, special ones included."""

    ids: Int[Tensor, " T"]
    begin: int
    """First position of the text's own tokens, behind BOS."""
    end: int
    """One past the last of them."""

    @property
    def first_read(self) -> int:
        """First position that may be read. Position 0 never is: where no BOS takes it, the text's own first token
        serves as the attention sink, and its residual can be a hundred times as long as any other."""
        return max(self.begin, 1)

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Batch:
    """Texts of about the same length, padded on the right (in a causal model no token can see that padding)."""

    index: Int[Tensor, " B"]
    """Which texts these are."""
    ids: Int[Tensor, "B T"]
    present: Bool[Tensor, "B T"]
    """Not padding."""
    readable: Bool[Tensor, "B T"]
    """The text's own tokens."""
    chosen: Bool[Tensor, "B T"]
    """Those of them that the token rule takes."""

    def text_means(self, hidden_BTD: Float[Tensor, "B T D"]) -> Float[Tensor, "B D"]:
        """Each text's mean over its chosen tokens, fp32 or better."""
        chosen_BT1 = self.chosen.to(hidden_BTD.device).unsqueeze(-1)
        dtype = torch.promote_types(hidden_BTD.dtype, torch.float32)
        return torch.where(chosen_BT1, hidden_BTD, 0).sum(1, dtype=dtype) / chosen_BT1.sum(1)


Rows = Callable[[int, Tensor, Batch], tuple[Tensor, Tensor]]
"""Layer, hidden states and batch to the rows that go into the moments and their weight in each group."""


def tokenise(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], read_from: Sequence[int] | None = None
) -> list[Tokens]:
    """Cut texts as the tokenizer does by default, BOS included if it adds one, no longer than the model's context.

    ``read_from`` gives, per text, the character whose token is the first that counts as the text's own.

    Raises:
        ValueError: for a text without a token to read, or a tokenizer that is not the model's.
    """
    config = unwrap(model).config.get_text_config(decoder=True)  # pyright: ignore
    context, n_embeddings = getattr(config, "max_position_embeddings", None), _embeddings(model).weight.shape[0]
    tokens, n_long = [], 0
    for number, (text, ids, special) in enumerate(_encoded(tokenizer, texts)):
        n_long += context is not None and len(ids) > context
        ids, special = ids[:context], special[:context]
        begin, end = 0, len(ids)
        while begin < end and (special[begin] or ids[begin] == tokenizer.bos_token_id):
            begin += 1
        while end > begin and special[end - 1]:
            end -= 1
        if read_from is not None and read_from[number]:
            begin = max(begin, _token_at(tokenizer, text, read_from[number]))
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
        tokens.append(Tokens(torch.tensor(ids, dtype=torch.int32), begin, end))
    if n_long:
        logger.warning(
            "%d of %d texts are longer than the context (%d tokens) and were cut", n_long, len(texts), context
        )
    return tokens


def _token_at(tokenizer: PreTrainedTokenizerBase, text: str, character: int) -> int:
    """Position of the first token that ends behind a character; past the end if there is none."""
    offsets = tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    # Special tokens lie at (0, 0); a byte-level token counts the space before its word as its own.
    return next((n for n, (_, end) in enumerate(offsets) if end > character), len(offsets))


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> Iterator[tuple[str, list[int], list[int]]]:
    """Each text, its token ids, and which of these the tokenizer added. Some at a time: lists of ints are large."""
    for at in range(0, len(texts), 1024):
        chunk = list(texts[at : at + 1024])
        encoded = tokenizer(
            chunk,
            padding=False,
            truncation=False,
            return_attention_mask=False,
            return_special_tokens_mask=True,
            verbose=False,
        )
        yield from zip(chunk, encoded["input_ids"], encoded["special_tokens_mask"], strict=True)


def stream_moments(
    model: nn.Module,
    layers: Sequence[int],
    texts: Sequence[Tokens],
    rows: Rows,
    n_groups: int,
    *,
    products: bool = False,
    from_token: int = 1,
    batch_size: int = 16,
    bar: tqdm,
) -> Moments:
    """Forward every text once, in eval mode and without the head, and add up what ``rows`` makes of each layer.

    Raises:
        ValueError: naming the first layer that gave a value that is not finite.
    """
    fitter = MomentsFitter(layers, n_groups, products)
    with evaluating(model):
        for number, batch in enumerate(_batches(model, texts, from_token, batch_size)):
            run_to(
                model,
                layers,
                lambda layer, hidden, batch=batch: fitter.update(layer, *rows(layer, hidden, batch)),
                input_ids=batch.ids,
                attention_mask=batch.present.long(),
            )
            bar.update(len(batch.index))
            if number == 0:  # a broken model shows at once; looking after each batch would wait for the device
                _check_finite(model, fitter)
    _check_finite(model, fitter)
    return fitter.result()


def input_device(model: nn.Module) -> torch.device:
    """Where token ids have to be: a model may be spread over devices."""
    return _embeddings(model).weight.device


def _embeddings(model: nn.Module) -> nn.Embedding:
    return unwrap(model).get_input_embeddings()  # pyright: ignore


def _batches(model: nn.Module, texts: Sequence[Tokens], from_token: int, batch_size: int) -> Iterator[Batch]:
    # Longest first: little padding, and memory that does not suffice shows in the first batch.
    order = sorted(range(len(texts)), key=lambda n: -len(texts[n]))
    device = input_device(model)
    for at in range(0, len(order), batch_size):
        index = order[at : at + batch_size]
        chosen = [texts[n] for n in index]
        length, first, end = torch.tensor([(len(text), text.first_read, text.end) for text in chosen]).T.unsqueeze(-1)
        rule = torch.tensor([[_first_by_rule(text, from_token)] for text in chosen])
        position = torch.arange(len(chosen[0]))
        masks = position < length, (position >= first) & (position < end), (position >= rule) & (position < end)
        ids = pad_sequence([text.ids for text in chosen], batch_first=True)  # any token will do where none is seen
        yield Batch(*(tensor.to(device) for tensor in (torch.tensor(index), ids.long(), *masks)))


def _first_by_rule(text: Tokens, from_token: int) -> int:
    """Position of a text's n-th token, BOS not counted; of the first that can be read if it has fewer."""
    nth = text.begin + from_token - 1
    return max(nth, text.first_read) if nth < text.end else text.first_read


def _check_finite(model: nn.Module, fitter: MomentsFitter) -> None:
    layer = fitter.not_finite()
    if layer is None:
        return
    bad = [name for name, parameter in unwrap(model).named_parameters() if not parameter.isfinite().all()]
    if bad:
        cause = f"parameter {bad[0]} holds nan or inf" + (f", and so do {len(bad) - 1} more" if bad[1:] else "")
    else:
        dtype = next(model.parameters()).dtype
        cause = f"its parameters are, so the forward pass overflows in {dtype}; load the model in bfloat16 or float32"
    raise ValueError(f"hidden states at layer {layer} are not finite: {cause}")
