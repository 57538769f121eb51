"""The one hook site: the residual stream at a decoder block's output, before any final norm.

Layer ``l`` is the l-th decoder block, counted from 0; its site is ``hidden_states[l + 1]`` of the transformers
convention, except that the last block is read *before* the final norm. Extraction, training, steering and audit all
come through `hook_blocks`, so they cannot disagree about which tensor they mean.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from inspect import signature
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig

# By name, so that DeepSpeed need not be installed.
_ENGINES = ("DistributedDataParallel", "FullyShardedDataParallel", "DeepSpeedEngine")
# What configs call the number of blocks and the width. A config's own `attribute_map` serves the first name mostly; in
# LongCat-Flash, whose blocks are double, that one counts halves.
_DEPTH = ("num_hidden_layers", "num_layers", "n_layers", "n_layer")
_WIDTH = ("hidden_size", "n_embd", "d_model", "dim")

OnBlock = Callable[[int, Tensor], Tensor | None]


def unwrap(model: nn.Module) -> nn.Module:
    """The transformers model inside wrappers of torch (DDP, FSDP, compile), DeepSpeed and peft."""
    return _wrappers(model)[-1]


def active_adapters(model: nn.Module) -> tuple[str, ...]:
    """Names of the peft adapters that take part in a forward pass now; none in a model without, or when disabled."""
    peft: Any = _peft(model)
    return () if peft is None or peft._adapters_disabled else tuple(peft.active_adapters)


def learns_prompt(model: nn.Module) -> bool:
    """Whether peft's own forward brings in what trains, as prompt and prefix tuning do, and not the blocks'."""
    peft: Any = _peft(model)
    return peft is not None and peft.active_peft_config.is_prompt_learning


def virtual_tokens(model: nn.Module) -> int:
    """Positions that peft's prompt tuning puts before every sequence."""
    peft: Any = _peft(model)
    if not learns_prompt(model):
        return 0
    # Prefix tuning puts its tokens in the cache, where they have no position in the residual stream.
    in_cache = peft.active_peft_config.peft_type.value in ("PREFIX_TUNING", "CARTRIDGE")
    return 0 if in_cache else peft.active_peft_config.num_virtual_tokens


def _peft(model: nn.Module) -> nn.Module | None:
    return next((wrapper for wrapper in _wrappers(model) if hasattr(wrapper, "get_base_model")), None)


def _wrappers(model: nn.Module) -> list[nn.Module]:
    """A model, what it wraps, what that wraps, and so on, to the transformers model."""
    found = [model]
    while True:
        inner: Any = None
        if hasattr(model, "get_base_model"):  # peft
            inner = cast(Any, model).get_base_model()
        elif hasattr(model, "_orig_mod"):  # torch.compile
            inner = model._orig_mod
        elif any(kind.__name__ in _ENGINES for kind in type(model).__mro__):
            inner = model.module
        if inner is None or inner is model:
            return found
        found.append(model := inner)


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


@contextmanager
def hook_blocks(model: nn.Module, layers: Sequence[int], on_block: OnBlock) -> Iterator[None]:
    """Call ``on_block(layer, hidden)`` at each given block's output, for as long as the context is open.

    ``hidden`` is (B, T, D). What ``on_block`` returns, unless None, takes the output's place. Every hook is gone when
    the context closes, however it closes.

    Raises:
        ValueError: for a layer out of range, or, when it runs, a block whose output is not one vector of the model's
            width per position. So ends whoever keeps several streams (Gemma 3n's AltUp, hyper-connections).
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
