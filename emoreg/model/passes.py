"""Forward passes that are run for their hooks alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from emoreg.model.blocks import backbone, check_layers, decoder_blocks
from emoreg.model.hooks import OnBlock, hook_blocks
from emoreg.model.sharded import is_sharded
from emoreg.model.wrappers import unwrap, virtual_tokens


class _EnoughError(Exception):
    """Raised inside a forward pass once the last layer of interest has been read."""


def run_to(model: nn.Module, layers: Sequence[int], on_block: OnBlock, **inputs: Tensor) -> None:
    """Run the backbone on ``inputs`` without its head, and only as far as the last of ``layers``.

    A sharded model is run whole: its engine keeps account of which weights are gathered, from the first to the last.
    Meant for inference: a pass that is cut short has no output.

    Raises:
        ValueError: if a block did not run, as those of Llama 3.2 Vision that look at images do not on text alone, ran
            more than once, or gave something else than a vector per token of ``input_ids``.
    """
    sharded = is_sharded(model)
    layers = check_layers(layers, len(decoder_blocks(model)))
    n_texts, n_tokens = inputs["input_ids"].shape
    # A learned prompt is put before the tokens by what lies around the backbone.
    expected = (n_texts, n_tokens + (virtual_tokens(model) if sharded else 0))
    ran = []

    def visit(layer: int, hidden: Tensor) -> None:
        if hidden.shape[:2] != expected:
            raise ValueError(
                f"block {layer} gave a tensor of shape {tuple(hidden.shape)} for {expected[0]} texts of {expected[1]} "
                "tokens; emoreg reads models that keep one vector per token, (B, T, D)"
            )
        ran.append(layer)
        on_block(layer, hidden)
        if layer == layers[-1] and not sharded:
            raise _EnoughError

    with hook_blocks(model, layers, visit), torch.no_grad(), suppress(_EnoughError):
        if sharded:
            run_whole(model, **inputs, use_cache=False)
        else:
            backbone(model)(**inputs, use_cache=False)
    if tuple(ran) != layers:
        raise ValueError(
            f"expected blocks {list(layers)} to run once each and in order, got {ran}; "
            "leave out of `layers` those that text alone does not reach"
        )


def run_whole(model: nn.Module, **inputs: Any) -> Any:
    """The outputs of the model with all that wraps it, the head at no more than the last position where it can tell."""
    if "logits_to_keep" in signature(unwrap(model).forward).parameters:
        inputs["logits_to_keep"] = 1
    return model(**inputs)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode while the context is open; then every module's own mode again, also of those that differed."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    for module in training:
        # On a CPU bitsandbytes packs a 4-bit weight at its first evaluation, and lets no gradient through ever after.
        module.training = hasattr(module, "support_avx512bf16_for_cpu")
    try:
        yield
    finally:
        for module in training:
            module.training = True
