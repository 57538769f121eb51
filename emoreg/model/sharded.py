"""Models whose weights are not all there at once: how to read them.

An engine spreads them over ranks (FSDP, DeepSpeed's ZeRO-3, tensor parallelism), or accelerate has them wait on the
host or a disk. Gathering from ranks is a collective: every rank must call it, with the same model.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate.utils import align_module_device, has_offloaded_params
from torch import Tensor, nn

from emoreg.model.wrappers import unwrap

# What the wrappers of FSDP, of activation checkpointing and of torch.compile put into the names of what they wrap.
_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")


def is_sharded(model: nn.Module) -> bool:
    """Whether a rank holds no more than its share of some weight until a forward pass gathers it."""
    return bool(_fsdp1_units(model)) or any(_is_share(p) for p in model.parameters())


def compute_device(model: nn.Module) -> torch.device:
    """Where a model computes: for weights that wait on the host, where they are gathered to."""
    first: Any = next(model.parameters())
    mesh = getattr(first, "device_mesh", None)
    if mesh is None or mesh.device_type == first.device.type:
        return first.device
    return torch.device(mesh.device_type, torch.get_device_module(mesh.device_type).current_device())


def input_device(model: nn.Module) -> torch.device:
    """Where token ids have to be: a model may be spread over devices, or wait on the host or a disk for its turn.

    Raises:
        ValueError: for a model whose embeddings are nowhere.
    """
    if is_sharded(model):
        return compute_device(model)
    layer = embeddings(model)
    if has_offloaded_params(layer):
        return torch.device(layer._hf_hook.execution_device)  # pyright: ignore - accelerate's hook
    device = next(layer.parameters()).device
    if device.type == "meta":
        raise ValueError("the model's embeddings are on the meta device: its weights have not been loaded")
    return device


def embeddings(model: nn.Module) -> Any:
    """The layer that takes token ids in: an `nn.Embedding`, or peft's wrapper of one."""
    return unwrap(model).get_input_embeddings()  # pyright: ignore


def named_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every weight under the name it has in a bare model, one after the other, to be `gathered`.

    Each is on its device for as long as the iterator stands at it. Under FSDP1 it also yields a rank's flat shares.
    """
    inner = unwrap(model)
    for unit in _fsdp1_units(model) or [None]:
        with _summoned(unit):
            own = {name for name, _ in inner.named_parameters()}  # a tied weight once
            for prefix, module in inner.named_modules():
                with align_module_device(module):
                    for name, parameter in module.named_parameters(prefix, recurse=False):
                        if name in own:
                            yield _bare(name), parameter


@contextmanager
def gathered(parameter: Tensor) -> Iterator[Tensor]:
    """A weight, whole, for as long as the context is open."""
    if hasattr(parameter, "ds_id"):
        from deepspeed.runtime.zero import GatheredParameters

        with GatheredParameters([parameter]):
            yield parameter
    elif hasattr(parameter, "full_tensor"):
        yield parameter.full_tensor()  # pyright: ignore[reportAttributeAccessIssue] - a DTensor
    else:
        yield parameter


def _bare(name: str) -> str:
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def _is_share(parameter: Tensor) -> bool:
    return hasattr(parameter, "full_tensor") or hasattr(parameter, "ds_id")


def _fsdp1_units(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if type(module).__name__ == "FullyShardedDataParallel"]


@contextmanager
def _summoned(unit: Any) -> Iterator[None]:
    # FSDP1 gathers by module: one at a time, since all would be the model.
    if unit is None:
        yield
        return
    with type(unit).summon_full_params(unit, recurse=False, writeback=False):
        yield
