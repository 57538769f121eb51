"""Scope: which token positions of a batch count.

Shapes: B batch, T positions. Never padding, and never a sequence's first position: BOS, or without one the token that
serves as the attention sink, whose residual can be a hundred times as long as any other. Works on padded batches
(``attention_mask``) of either side and on packed ones (``position_ids`` that start again at 0 with every sequence).
"""

import re
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from emoreg import checks

Scope = str | Callable[[Mapping[str, Tensor]], Tensor]
"""``completion``, ``prompt``, ``all``, ``last:k``, ``reply_start``, or a function from the batch to a (B, T) mask such
as `emoreg.Reasoning`. A name may follow ``chosen:``, ``rejected:``, ``desirable:``, ``undesirable:`` or ``both:``."""

IGNORE = -100
"""The label of a token that no loss is taken on."""

_NAMED = ("completion", "prompt", "all", "reply_start")
_LAST = re.compile(r"last:([1-9]\d{0,8})")
# Which of a preference trainer's sequences count: the batch's entry that says so, and the value that it must have.
_SEQUENCES = {
    "chosen": ("branch", 0),
    "rejected": ("branch", 1),
    "desirable": ("desirable", True),
    "undesirable": ("desirable", False),
}


def check_scope(scope: Scope) -> None:
    """Raise ValueError unless ``scope`` is one that `positions` understands."""
    if callable(scope):
        return checks.function("scope", scope, "the batch")
    name = _split(scope)[1] if isinstance(scope, str) else ""
    if name not in _NAMED and not _LAST.fullmatch(name):
        raise ValueError(
            f"unknown scope {scope!r}; expected one of {', '.join(_NAMED)}, last:k, each perhaps after "
            f"{', '.join(f'{which}:' for which in (*_SEQUENCES, 'both'))}; or a function such as emoreg.Reasoning"
        )


def positions(scope: Scope, inputs: Mapping[str, Tensor]) -> Bool[Tensor, "B T"]:
    """The positions of a batch that a scope selects: `tokens` of its `sequences`."""
    return tokens(scope, inputs) & sequences(scope, inputs)[:, None]


def tokens(scope: Scope, inputs: Mapping[str, Tensor]) -> Bool[Tensor, "B T"]:
    """The positions that a scope selects in every sequence of a batch.

    * ``completion``: the tokens that the loss is taken on (``labels != -100``).
    * ``prompt``: the other tokens.
    * ``all``: both.
    * ``last:k``: the last k completion tokens of each sequence.
    * ``reply_start``: the position from which each reply is predicted, the last one before it.

    Args:
        scope: one of these, or a function of ``inputs``.
        inputs: the batch as the model gets it (``input_ids``, and ``attention_mask`` or ``position_ids``), with
            ``labels``, on any device. No value of it is brought to the host.

    Raises:
        ValueError: if the batch lacks what the scope needs, or a function gives something else than a (B, T) bool.
    """
    real, starts = real_and_starts(inputs)
    counts, shape = real & ~starts, real.shape
    if callable(scope):
        chosen = scope(inputs)
        if not isinstance(chosen, Tensor) or chosen.dtype != torch.bool or chosen.shape != shape:
            got = f"{tuple(chosen.shape)} {chosen.dtype}" if isinstance(chosen, Tensor) else type(chosen).__name__
            raise ValueError(f"a scope function must return a bool tensor of shape {tuple(shape)}, got {got}")
        return chosen & counts
    name = _split(scope)[1]
    if name == "all":
        return counts
    labels = inputs.get("labels")
    if labels is None or labels.shape != shape:
        got = f"has only {', '.join(inputs)}" if labels is None else f"has labels of shape {tuple(labels.shape)}"
        raise ValueError(f"scope {scope!r} needs a label for every token, and the batch {got}; use 'all'")
    completion = (labels != IGNORE) & counts
    if name == "completion":
        return completion
    if name == "prompt":
        return counts & ~completion
    if name == "reply_start":
        return counts & ~completion & torch.nn.functional.pad(completion[:, 1:], (0, 1))
    last = _LAST.fullmatch(name)
    if last is None:
        check_scope(scope)
        raise AssertionError(f"no rule for scope {scope!r}")
    return completion & (_from_end(completion, starts) <= int(last[1]))


def sequences(scope: Scope, inputs: Mapping[str, Tensor]) -> Bool[Tensor, " B"]:
    """The sequences that a scope selects in a batch of preferences; all of them in any other.

    By default the chosen ones of pairs (``inputs["branch"]`` (B,) is 0 there and 1 for the rejected, as in DPO) and the
    desirable ones of single judgements (``inputs["desirable"]`` (B,), as in KTO).

    Raises:
        ValueError: if the scope names sequences that this batch does not tell apart.
    """
    key, value = _sequences_of(scope, inputs)
    if key is None:
        return torch.ones_like(like(inputs)[:, 0], dtype=torch.bool)
    if key not in inputs:
        raise ValueError(
            f"scope {scope!r} needs a batch that tells such sequences apart, as a preference trainer's does"
        )
    return inputs[key] == value


def n_sequences(scope: Scope, inputs: Mapping[str, Tensor]) -> Int[Tensor, ""]:
    """Over how many sequences of a batch a mean over sequences is taken: its own, but all single judgements.

    Pairs hold as many of each kind, however a batch is cut; how many judgements are desirable only the data say. So
    there an undesirable one counts as 0, as in the mean that KTO itself takes over all of them.
    """
    selected = sequences(scope, inputs)
    return (torch.ones_like(selected) if "desirable" in inputs else selected).sum()


def _sequences_of(scope: Scope, inputs: Mapping[str, Tensor]) -> tuple[str | None, int | bool]:
    wanted = None if callable(scope) else _split(scope)[0]
    if wanted is None:
        wanted = "chosen" if "branch" in inputs else "desirable" if "desirable" in inputs else "both"
    return _SEQUENCES.get(wanted, (None, 0))


def _split(scope: str) -> tuple[str | None, str]:
    which, colon, name = scope.partition(":")
    return (which, name) if colon and which in (*_SEQUENCES, "both") else (None, scope)


class Scoped:
    """One forward pass's batch, with what each scope selects of it, found once however many ask."""

    def __init__(self, inputs: Mapping[str, Tensor]):
        self.inputs = inputs
        self._tokens: dict[str | int, Tensor] = {}

    def tokens(self, scope: Scope) -> Bool[Tensor, "B T"]:
        """`tokens` of the batch."""
        key = scope if isinstance(scope, str) else id(scope)  # the regularizer keeps it alive
        if key not in self._tokens:
            self._tokens[key] = tokens(scope, self.inputs)
        return self._tokens[key]

    def positions(self, scope: Scope) -> Bool[Tensor, "B T"]:
        """`positions` of the batch."""
        return self.tokens(scope) & sequences(scope, self.inputs)[:, None]


def real_and_starts(inputs: Mapping[str, Tensor]) -> tuple[Bool[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """The positions that are no padding, and among them the first of every sequence."""
    mask, ids = inputs.get("attention_mask"), inputs.get("position_ids")
    if mask is None or mask.ndim != 2:
        # A mask of four dimensions says who attends to whom; packed batches that bring one have no padding.
        mask = torch.ones_like(like(inputs))
    real = mask.bool()
    if ids is None:
        return real, real & (real.cumsum(1) == 1)
    ids = ids[0] if ids.ndim == 3 else ids  # vision-language models have one each for time, height and width
    return real, real & (ids == 0)


def like(inputs: Mapping[str, Tensor]) -> Tensor:
    """A tensor (B, T) of a batch, whichever there is: for its shape and device."""
    for name in ("input_ids", "attention_mask", "labels"):
        value = inputs.get(name)
        if value is not None and value.ndim == 2:
            return value
    raise ValueError(f"the batch has neither input_ids nor attention_mask, only {', '.join(inputs)}")


def _from_end(chosen: Bool[Tensor, "B T"], starts: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """For each chosen position, its rank from the end among the chosen of its sequence; the last is 1."""
    sequence = starts.long().cumsum(1)
    so_far = chosen.long().cumsum(1)
    # The count at a sequence's end, spread over the sequence.
    at_end = torch.zeros(len(chosen), chosen.shape[1] + 1, dtype=torch.long, device=chosen.device)
    at_end.scatter_reduce_(1, sequence, so_far, "amax")
    return at_end.gather(1, sequence) - so_far + 1
