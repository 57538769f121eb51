"""Scope: which token positions of a trainer's batch count.

Shapes: B batch, T positions. Never padding, and never a sequence's first position: BOS, or without one the token that
serves as the attention sink, whose residual can be a hundred times as long as any other. Works on padded batches
(``attention_mask``) of either side and on packed ones (``position_ids`` that start again at 0 with every sequence).
"""

import re
from collections.abc import Callable, Mapping

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Scope = str | Callable[[Mapping[str, Tensor]], Tensor]
"""``completion``, ``prompt``, ``all``, ``last:k``, ``reply_start``, or a function from the batch to a (B, T) mask."""

_NAMED = ("completion", "prompt", "all", "reply_start")
_LAST = re.compile(r"last:([1-9]\d*)")


def check_scope(scope: Scope) -> None:
    """Raise ValueError unless ``scope`` is one that `positions` understands."""
    if not callable(scope) and not (isinstance(scope, str) and (scope in _NAMED or _LAST.fullmatch(scope))):
        raise ValueError(f"unknown scope {scope!r}; expected one of {', '.join(_NAMED)}, last:k, or a function")


def positions(scope: Scope, inputs: Mapping[str, Tensor]) -> Bool[Tensor, "B T"]:
    """The positions of a batch that a scope selects.

    * ``completion``: the tokens that the loss is taken on (``labels != -100``).
    * ``prompt``: the other tokens.
    * ``all``: both.
    * ``last:k``: the last k completion tokens of each sequence.
    * ``reply_start``: the position from which each reply is predicted, the last one before it.

    Args:
        scope: one of these, or a function of ``inputs``.
        inputs: the batch as `Trainer.compute_loss` gets it, on any device. No value of it is brought to the host.

    Raises:
        ValueError: if the batch lacks what the scope needs, or a function gives something else than a (B, T) bool.
    """
    ids = inputs["input_ids"]
    real = inputs["attention_mask"].bool() if inputs.get("attention_mask") is not None else torch.ones_like(ids).bool()
    starts = _starts(inputs, real)
    counts = real & ~starts
    if callable(scope):
        chosen = scope(inputs)
        if not isinstance(chosen, Tensor) or chosen.dtype != torch.bool or chosen.shape != ids.shape:
            got = f"{tuple(chosen.shape)} {chosen.dtype}" if isinstance(chosen, Tensor) else type(chosen).__name__
            raise ValueError(f"a scope function must return a bool tensor of shape {tuple(ids.shape)}, got {got}")
        return chosen & counts
    if scope == "all":
        return counts
    if inputs.get("labels") is None:
        raise ValueError(f"scope {scope!r} needs labels in the batch, which has only {', '.join(inputs)}; use 'all'")
    completion = (inputs["labels"] != -100) & counts
    if scope == "completion":
        return completion
    if scope == "prompt":
        return counts & ~completion
    if scope == "reply_start":
        return counts & ~completion & torch.nn.functional.pad(completion[:, 1:], (0, 1))
    last = _LAST.fullmatch(scope)
    if last is None:
        check_scope(scope)
        raise AssertionError(f"no rule for scope {scope!r}")
    return completion & (_from_end(completion, starts) <= int(last[1]))


def _starts(inputs: Mapping[str, Tensor], real: Bool[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
    """True at the first token of every sequence."""
    if inputs.get("position_ids") is not None:
        return (inputs["position_ids"] == 0) & real
    return real & (real.cumsum(1) == 1)


def _from_end(chosen: Bool[Tensor, "B T"], starts: Bool[Tensor, "B T"]) -> Int[Tensor, "B T"]:
    """For each chosen position, its rank from the end among the chosen of its sequence; the last is 1."""
    sequence = starts.long().cumsum(1)
    so_far = chosen.long().cumsum(1)
    # The count at a sequence's end, spread over the sequence.
    at_end = torch.zeros(len(chosen), chosen.shape[1] + 1, dtype=torch.long, device=chosen.device)
    at_end.scatter_reduce_(1, sequence, so_far, "amax")
    return at_end.gather(1, sequence) - so_far + 1
