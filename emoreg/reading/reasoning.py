"""`Reasoning`: the scope of what a model thinks before it answers.

Shapes: B batch, T positions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from emoreg import checks
from emoreg.reading.scope import real_and_starts


@dataclass(frozen=True)
class Reasoning:
    """Scope: the completion tokens between two markers, such as ``<think>`` and ``</think>``, markers left out.

    The opening marker may stand in the prompt, where chat templates put it. Without a closing one the reasoning goes on
    to the end of its sequence.

    Example:
        >>> Hinge("desperate", scope=Reasoning.between(tokenizer, "<think>", "</think>"))
    """

    start: tuple[int, ...]
    """Token ids of the opening marker."""
    end: tuple[int, ...]
    """Token ids of the closing marker."""

    def __post_init__(self):
        for name in ("start", "end"):
            checks.tokens(f"{name} of Reasoning", getattr(self, name))

    @classmethod
    def between(cls, tokenizer: PreTrainedTokenizerBase, start: str = "<think>", end: str = "</think>") -> "Reasoning":
        """The scope between two marker strings of a tokenizer.

        Raises:
            ValueError: for a marker that is no text, or that the tokenizer has no tokens for.
        """
        checks.kind("tokenizer", tokenizer, PreTrainedTokenizerBase, "a tokenizer of transformers")
        checks.text("start", start, "a marker's text")
        checks.text("end", end, "a marker's text")
        return cls(*(tuple(tokenizer.encode(marker, add_special_tokens=False)) for marker in (start, end)))

    def __call__(self, inputs: Mapping[str, Tensor]) -> Bool[Tensor, "B T"]:
        """The positions of a batch with ``input_ids`` and ``labels``."""
        if inputs.get("labels") is None or inputs.get("input_ids") is None:
            raise ValueError(f"scope Reasoning needs input_ids and labels, and the batch has only {', '.join(inputs)}")
        ids = inputs["input_ids"]
        _, starts = real_and_starts(inputs)
        opened, closed = self._ends(ids, self.start), self._ends(ids, self.end)
        at = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)

        def last(event: Tensor) -> Tensor:
            return torch.where(event, at, -1).cummax(1).values

        # Open where the last marker's end is an opening one of the same sequence.
        inside = (last(opened) > last(closed)) & (last(opened) >= last(starts)) & ~opened
        # The closing marker's own tokens, before its last one, are still "inside": take them out.
        closing = closed.clone()
        for back in range(1, len(self.end)):
            closing[:, :-back] |= closed[:, back:]
        return inside & ~closing & (inputs["labels"] != -100)

    @staticmethod
    def _ends(ids: Tensor, marker: tuple[int, ...]) -> Tensor:
        """True at the last token of each occurrence of a marker."""
        found = torch.ones_like(ids, dtype=torch.bool)
        for back, token in enumerate(reversed(marker)):
            found[:, back:] &= ids[:, : ids.shape[1] - back] == token
            found[:, :back] = False
        return found
