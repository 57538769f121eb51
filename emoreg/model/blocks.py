"""Where a model keeps its residual stream: the list of its decoder blocks, how many there are, and how wide it is.

Layer ``l`` is the l-th decoder block, counted from 0; its site is ``hidden_states[l + 1]`` of the transformers
convention, except that the last block is read *before* the final norm.
"""

from collections.abc import Sequence
from inspect import signature
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from emoreg.model.wrappers import unwrap

# What configs call the number of blocks and the width. A config's own `attribute_map` serves the first name mostly; in
# LongCat-Flash, whose blocks are double, that one counts halves.
_DEPTH = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
_WIDTH = ("hidden_size", "n_embd", "d_model", "dim")


def text_config(model: nn.Module) -> PreTrainedConfig:
    """The config of the language model: of the whole, or of a vision-language model's text part.

    Raises:
        ValueError: for a model that is not of transformers, or one with an encoder for its text.
    """
    inner = unwrap(model)
    config: Any = getattr(inner, "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        raise ValueError(
            f"expected a transformers causal language model, got {type(model).__name__}, which has no config"
        )
    own = getattr(config, "is_encoder_decoder", False)
    text = config if own else config.get_text_config(decoder=True)
    if own or getattr(text, "is_encoder_decoder", False):
        raise ValueError(
            f"expected a decoder-only language model, got {type(inner).__name__}, whose text goes through an encoder: "
            "no one residual stream holds prompt and reply"
        )
    return text


def depth(model: nn.Module) -> int:
    """Number of decoder blocks."""
    return len(decoder_blocks(model))


def width(model: nn.Module) -> int:
    """Size D of the residual stream."""
    return _sizes(model, _WIDTH)[0]


def backbone(model: nn.Module) -> nn.Module:
    """The decoder without its language-model head, and without a vision tower: the smallest part of a model that takes
    token ids and runs the blocks."""
    return _locate(model)[0]


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks, in order.

    Raises:
        ValueError: if no list of blocks, or more than one, has the length that the model's config gives; if tokens see
            later ones; if what the blocks give is in other units in evaluation than in training.
    """
    return _locate(model)[1]


def _locate(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    inner: Any = unwrap(model)
    counts = _sizes(inner, _DEPTH)
    lists = _lists(inner.get_decoder()) if hasattr(inner, "get_decoder") else {}
    lists = lists or _lists(inner)  # ModernBERT's decoder calls a part of its head `decoder`
    found = next((found for n in counts if (found := _outermost(lists, n))), {})
    if len(found) != 1:
        names = {id(module): name for name, module in inner.named_modules()}
        there = {names.get(id(child), name): len(child) for name, (_, child) in (found or lists).items()}
        listed = ", ".join(f"{name} of {n}" for name, n in list(there.items())[:8]) or "no list of modules"
        raise ValueError(
            f"expected one list of {counts[0]} decoder blocks in {type(inner).__name__}, found {len(found)} "
            f"({listed}); emoreg does not know where this architecture keeps its residual stream"
        )
    [(parents, blocks)] = found.values()
    _check_kind(inner, len(blocks))
    return next((parent for parent in parents if _takes_ids(parent)), inner), blocks


def _check_kind(inner: nn.Module, n_blocks: int) -> None:
    config = text_config(inner)
    every = getattr(config, "rescale_every", 0)  # RWKV
    if 0 < every < n_blocks:
        raise ValueError(
            f"{type(inner).__name__} halves its residual stream after every {every} blocks, but not in training; "
            "set model.config.rescale_every = 0 before its first forward pass"
        )
    # PaliGemma; BERT's kind unless told otherwise (GPT-NeoX has is_decoder too, and means nothing by it).
    both_ways = getattr(config, "use_bidirectional_attention", None) in (True, "all")
    if both_ways or (hasattr(config, "add_cross_attention") and not getattr(config, "is_decoder", True)):
        raise ValueError(
            f"expected a causal language model, got {type(inner).__name__}, in which tokens see later ones, so that "
            "readings before a reply would depend on it; where the config has is_decoder, load it with is_decoder=True"
        )


def _sizes(model: nn.Module, names: Sequence[str]) -> list[int]:
    config = text_config(model)
    sizes = [size for name in names if isinstance(size := getattr(config, name, None), int)]
    if not sizes:
        raise ValueError(
            f"the config of {type(unwrap(model)).__name__} has none of {', '.join(names)}; "
            "emoreg does not know this architecture"
        )
    return sizes


def _lists(root: nn.Module) -> dict[str, tuple[list[nn.Module], nn.ModuleList]]:
    """Every list of modules under its name, and what it lies in, from the innermost out."""
    modules = dict(root.named_modules())
    found = {}
    for name, module in modules.items():
        if name and isinstance(module, nn.ModuleList):
            steps = name.split(".")
            found[name] = [modules[".".join(steps[:n])] for n in reversed(range(len(steps)))], module
    return found


def _outermost(lists: dict[str, tuple[list[nn.Module], nn.ModuleList]], n_blocks: int) -> dict:
    """The lists of one length. Inside a block one (of experts, say) can have the same length by chance."""
    found = {name: pair for name, pair in lists.items() if len(pair[1]) == n_blocks}
    return {name: pair for name, pair in found.items() if not any(name.startswith(f"{other}.") for other in found)}


def _takes_ids(module: nn.Module) -> bool:
    return "input_ids" in signature(module.forward).parameters


def check_layers(layers: Sequence[int], n_blocks: int) -> tuple[int, ...]:
    """Sorted, unique layers, each within ``0 .. n_blocks - 1``.

    Raises:
        ValueError: naming the first layer that is out of range or repeated.
    """
    for layer in layers:
        if not 0 <= layer < n_blocks:
            raise ValueError(f"layer {layer} is out of range: the model has {n_blocks} blocks, 0 to {n_blocks - 1}")
    if len(set(layers)) != len(layers) or not layers:
        raise ValueError(f"layers must be one or more distinct block numbers, got {list(layers)}")
    return tuple(sorted(layers))
