"""Forward passes that are run for their hooks alone."""

from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from emoreg.residual import OnBlock, backbone, hook_blocks, unwrap
from emoreg.sharded import is_sharded


class _EnoughError(Exception):
    """Raised inside a forward pass once the last layer of interest has been read."""


def run_to(model: nn.Module, layers: Sequence[int], on_block: OnBlock, **inputs: Tensor) -> None:
    """Run the backbone on ``inputs`` without its head, and only as far as the last of ``layers``.

    A sharded model is run whole: its engine keeps account of which weights are gathered, from the first to the last.
    Meant for inference: a pass that is cut short has no output.
    """
    if is_sharded(model):
        with hook_blocks(model, layers, on_block), torch.no_grad():
            run_whole(model, **inputs, use_cache=False)
        return
    last = max(layers)

    def visit(layer: int, hidden: Tensor) -> None:
        on_block(layer, hidden)
        if layer == last:
            raise _EnoughError

    with hook_blocks(model, layers, visit), torch.no_grad():
        try:
            backbone(model)(**inputs, use_cache=False)
        except _EnoughError:
            return
    raise AssertionError("a forward pass ended without reaching the last hooked block")


def run_whole(model: nn.Module, **inputs: Any) -> Any:
    """The outputs of the model with all that wraps it, the head at no more than the last position where it can tell."""
    if "logits_to_keep" in signature(unwrap(model).forward).parameters:
        inputs["logits_to_keep"] = 1
    return model(**inputs)
