"""Finds where emoreg's own code would have the host wait for an accelerator, on a machine that has none.

While `Waits` is on, tensors say that they are on ``cpu:0``, which is the accelerator; ``cpu`` is the host. What reads a
value (`item`, ``x[mask]``, `nonzero`, ...) is seen where torch dispatches it, whoever asks for it; what on a CPU is no
operation at all (`.cpu()`, `.tolist()`) where it is called.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode

import emoreg

PACKAGE = str(Path(emoreg.__file__).parent)
TRANSPARENT = (str(Path(torch.__file__).parent), __file__)
ACCELERATOR, HOST = torch.device("cpu", 0), torch.device("cpu")

CALLS = {"tolist", "numpy", "__array__", "cpu"}
_aten = torch.ops.aten
# Their result, or its shape, depends on values.
READS = {
    _aten._local_scalar_dense, _aten.nonzero, _aten.masked_select, _aten._unique2, _aten.unique_dim,
    _aten.unique_consecutive, _aten.bincount, _aten.repeat_interleave, _aten.equal, _aten.allclose,
}  # fmt: skip
INDEXING = {_aten.index, _aten.index_put, _aten.index_put_, _aten._unsafe_index}


def _ours() -> str | None:
    """The function of emoreg's from which torch has been called; None if another library's called it."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(TRANSPARENT):
        frame = frame.f_back
    return frame.f_code.co_name if frame is not None and frame.f_code.co_filename.startswith(PACKAGE) else None


def _to_the_host(args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether these arguments of `Tensor.to`, or of a copy, name the host."""
    return any(
        torch.device(one) == HOST for one in (*args[1:], *kwargs.values()) if isinstance(one, str | torch.device)
    )


class Waits(TorchFunctionMode):
    """Calls ``found(what, function)`` for each read of a value in a function of emoreg's."""

    def __init__(self, found: Callable[[str, str], object]):
        super().__init__()
        self._found, self._dispatched = found, _Dispatched(self)

    def __enter__(self):
        self._dispatched.__enter__()
        return super().__enter__()

    def __exit__(self, *error: object):
        super().__exit__(*error)
        self._dispatched.__exit__(*error)

    def seen(self, what: str) -> None:
        function = _ours()
        if function is not None:
            self._found(what, function)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func == Tensor.device.__get__:
            return ACCELERATOR
        if name in CALLS or (name == "to" and _to_the_host(args, kwargs)):
            self.seen(name)
        return func(*args, **kwargs)


class _Dispatched(TorchDispatchMode):
    def __init__(self, waits: Waits):
        super().__init__()
        self._waits = waits

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet = func.overloadpacket
        by_mask = packet in INDEXING and any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1])
        if by_mask or packet in READS:
            self._waits.seen(resolve_name(func) or str(func))
        return func(*args, **(kwargs or {}))
