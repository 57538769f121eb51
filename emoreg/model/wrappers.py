"""What is wrapped round a transformers model: torch's, DeepSpeed's and peft's wrappers, and which adapters are on."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch import nn

# By name, so that DeepSpeed need not be installed.
_ENGINES = ("DistributedDataParallel", "FullyShardedDataParallel", "DeepSpeedEngine")


def unwrap(model: nn.Module) -> nn.Module:
    """The transformers model inside wrappers of torch (DDP, FSDP, compile), DeepSpeed and peft."""
    return _wrappers(model)[-1]


def active_adapters(model: nn.Module) -> tuple[str, ...]:
    """Names of the peft adapters that take part in a forward pass now; none in a model without, or when disabled."""
    peft: Any = _peft(model)
    return () if peft is None or peft._adapters_disabled else tuple(peft.active_adapters)


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """The frozen base for as long as the context is open: a model with its adapters off. One without is itself."""
    peft: Any = _peft(model)
    if peft is None or peft._adapters_disabled:
        yield
        return
    # peft makes every weight of an active adapter train when it switches it on again, also one that did not.
    trained = [(weight, weight.requires_grad) for weight in peft.parameters()]
    try:
        with peft.disable_adapter():
            yield
    finally:
        for weight, before in trained:
            weight.requires_grad_(before)


def base_is_rewritten(model: nn.Module) -> bool:
    """Whether adapters began by taking a part of the base's weights (PiSSA, OLoRA, CorDA, LoftQ, ...): without them the
    model is then less than its base."""
    peft: Any = _peft(model)
    started = (getattr(config, "init_lora_weights", True) for config in (peft.peft_config.values() if peft else ()))
    return any(isinstance(one, str) and one not in ("gaussian", "eva", "orthogonal") for one in started)


def learns_prompt(model: nn.Module) -> bool:
    """Whether peft's own forward brings in what trains, as prompt and prefix tuning do, and not the blocks'."""
    peft: Any = _peft(model)
    return peft is not None and peft.active_peft_config.is_prompt_learning


def virtual_tokens(model: nn.Module) -> int:
    """Positions that peft's prompt tuning puts before every sequence."""
    peft: Any = _peft(model)
    if not learns_prompt(model) or peft._adapters_disabled:
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
