"""The one hook site: the residual stream at a decoder block's output, before any final norm.

Layer ``l`` is the l-th decoder block, counted from 0; its site is ``hidden_states[l + 1]`` of the transformers
convention, except that the last block is read *before* the final norm. Extraction, training, steering and audit all
come through `hook_blocks`, so they cannot disagree about which tensor they mean.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig

# By name, so that DeepSpeed need not be installed.
_ENGINES = ("DistributedDataParallel", "FullyShardedDataParallel", "DeepSpeedEngine")

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
    """The config of the language model: of the whole, or of a vision-language model's text part."""
    config = getattr(unwrap(model), "config", None)
    if config is None or not hasattr(config, "get_text_config"):
        raise ValueError(
            f"expected a transformers causal language model, got {type(model).__name__}, which has no config"
        )
    return config.get_text_config(decoder=True)


def depth(model: nn.Module) -> int:
    """Number of decoder blocks."""
    return text_config(model).num_hidden_layers


def width(model: nn.Module) -> int:
    """Size D of the residual stream."""
    return text_config(model).hidden_size


def backbone(model: nn.Module) -> nn.Module:
    """The decoder without its language-model head: what has to run to fill the residual stream."""
    return _locate(model)[0]


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The decoder blocks, in order.

    Raises:
        ValueError: if no list of blocks, or more than one, has the length that the model's config gives.
    """
    return _locate(model)[1]


def _locate(model: nn.Module) -> tuple[nn.Module, nn.ModuleList]:
    inner = unwrap(model)
    n_blocks = depth(inner)
    decoder = cast(Any, inner).get_decoder() if hasattr(inner, "get_decoder") else inner
    found = [
        (parent, child)
        for parent in decoder.modules()
        for child in parent.children()
        if isinstance(child, nn.ModuleList) and len(child) == n_blocks
    ]
    # Lists inside a block (experts, say) can have the same length by chance; the decoder's own list is the outermost.
    nested = {id(module) for _, blocks in found for block in blocks for module in block.modules()}
    found = [pair for pair in found if id(pair[1]) not in nested]
    if len(found) != 1:
        raise ValueError(
            f"expected one list of {n_blocks} decoder blocks in {type(inner).__name__}, found {len(found)}; "
            "emoreg does not know where this architecture keeps its residual stream"
        )
    return found[0]


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
        ValueError: for a layer out of range, or a block whose output is not of the model's width.
    """
    blocks, size = decoder_blocks(model), width(model)
    layers = check_layers(layers, len(blocks))

    def hook_of(layer: int):
        def hook(_module: nn.Module, _args: object, output: Tensor | tuple):
            hidden = output[0] if isinstance(output, tuple) else output
            if hidden.ndim != 3 or hidden.shape[-1] != size:
                raise ValueError(f"block {layer} gave a tensor of shape {tuple(hidden.shape)}, expected (B, T, {size})")
            replaced = on_block(layer, hidden)
            if replaced is None:
                return None
            return (replaced, *output[1:]) if isinstance(output, tuple) else replaced

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
