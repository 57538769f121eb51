"""The one hook site: the residual stream at a decoder block's output, before any final norm; read or replaced there.

Extraction, training, steering and audit all come through `hook_blocks`, so they cannot disagree about which tensor they
mean.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from emoreg.model.blocks import check_layers, decoder_blocks, width

OnBlock = Callable[[int, Tensor], Tensor | None]


@contextmanager
def hook_blocks(model: nn.Module, layers: Sequence[int], on_block: OnBlock) -> Iterator[None]:
    """Call ``on_block(layer, hidden)`` at each given block's output, for as long as the context is open.

    ``hidden`` is (B, T, D). What ``on_block`` returns, unless None, takes the output's place. Every hook is gone when
    the context closes, however it closes.

    Raises:
        ValueError: for a layer out of range, or, when it runs, a block whose output is not one vector of the model's
            width per position. Models that keep several streams (Gemma 3n's AltUp, hyper-connections) end so.
    """
    blocks, size = decoder_blocks(model), width(model)
    layers = check_layers(layers, len(blocks))

    def hook_of(layer: int):
        def hook(_module: nn.Module, _args: object, output: Any):
            hidden = output[0] if isinstance(output, (tuple, list)) and output else output
            if not isinstance(hidden, Tensor):
                raise ValueError(
                    f"block {layer} gave a {type(output).__name__}, expected a tensor (B, T, {size}) or a tuple that "
                    "starts with one; emoreg cannot read this architecture"
                )
            if hidden.ndim != 3 or hidden.shape[-1] != size:
                raise ValueError(
                    f"block {layer} gave a tensor of shape {tuple(hidden.shape)}, expected (B, T, {size}): "
                    "emoreg reads models with one residual stream, of the config's width"
                )
            replaced = on_block(layer, hidden)
            if replaced is None:
                return None
            return replaced if hidden is output else type(output)((replaced, *output[1:]))

        return hook

    handles = []
    try:
        for layer in layers:
            handles.append(blocks[layer].register_forward_hook(hook_of(layer)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def steer(
    model: nn.Module, layers: Sequence[int], push_LD: Float[Tensor, "L D"]
) -> Iterator[None]:  # fmt: skip
    """Add a fixed vector to the residual stream at each given block, at every position.

    Args:
        model: the model to steer, while the context is open.
        layers: L block numbers.
        push_LD: what to add at each of them. Sofroniew et al. (arXiv 2604.07729) use a fraction of the layer's mean
            residual norm times the unit direction: ``strength * residual_norm[l] * directions[l, k]``.
    """
    pushes = dict(zip(layers, push_LD, strict=True))

    def add(layer: int, hidden: Tensor) -> Tensor:
        return hidden + pushes[layer].to(hidden)

    with hook_blocks(model, layers, add):
        yield
