"""`Reader`: the hooks that turn a model's forward passes into z, at every layer of a set of vectors.

Shapes: B batch, T positions, D width, L layers, K emotions, P penalised emotions (the first P of the K).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emoreg.model import active_adapters, backbone, hook_blocks, unwrap, virtual_tokens
from emoreg.reading.projection import project, standardise
from emoreg.reading.statistics import Statistics
from emoreg.vectors import EmotionVectors

Mode = Literal["train", "eval", "off"]


@dataclass
class Pass:
    """One forward pass: what the model was given, and z per layer, in the order of the vectors' layers."""

    inputs: dict[str, Tensor]
    """Those of the model's tensor arguments that scopes look at: `SEEN`."""
    penalised: list[Float[Tensor, "B T P"]] = field(default_factory=list)
    """With gradient."""
    all: list[Float[Tensor, "B T K"]] = field(default_factory=list)
    """Without."""


SEEN = ("input_ids", "attention_mask", "position_ids", "labels")


class Reader:
    """Holds the passes that count until they are taken."""

    def __init__(self, vectors: EmotionVectors, model: nn.Module, n_penalised: int, statistics: Statistics):
        self.vectors = vectors
        self.n_penalised = n_penalised
        self.mode: Mode = "train"
        """Which passes are read: those under grad, those without, or none. In any mode only those of the adapters that
        were active at the start: with others, or none, the model is its own reference."""
        self.watch_gradient = False
        """Whether passes measure, in their backward, the term's gradient at each layer against the task's."""
        self.watched = False
        """Whether any has since this was last set to False."""
        self.scaler: torch.amp.GradScaler | None = None
        """What multiplies the loss before its backward, in fp16: measured gradients are divided by it."""
        self._model, self._inner = model, unwrap(model)
        self._adapters = active_adapters(model)
        self._virtual = virtual_tokens(model)
        self._statistics = statistics
        self._constants: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        self._passes: list[Pass] = []
        self._given: dict[str, Tensor] = {}

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Hook the model for as long as the context is open."""
        with ExitStack() as stack:
            # Labels reach the whole model only, and some trainers run its decoder alone.
            for module in dict.fromkeys((self._inner, backbone(self._inner))):
                on_call = partial(self._on_call, list(signature(module.forward).parameters))
                handle = module.register_forward_pre_hook(_uncompiled(on_call), with_kwargs=True)
                stack.callback(handle.remove)
            # What one call was given must not be taken for the next one's.
            stack.callback(self._inner.register_forward_hook(_uncompiled(self._forget)).remove)
            stack.enter_context(hook_blocks(self._inner, self.vectors.layers, _uncompiled(self.on_block)))
            yield

    @contextmanager
    def reading(self, mode: Mode, watch_gradient: bool = False) -> Iterator[None]:
        """Read the passes of one mode while the context is open; then go on as if they had not been."""
        before = self.mode, self.watch_gradient, self._passes, self._given
        self._passes, self._given = [], {}
        self.mode, self.watch_gradient = mode, watch_gradient
        self.watched = self.watched or watch_gradient
        try:
            yield
        finally:
            self.mode, self.watch_gradient, self._passes, self._given = before

    def take(self) -> list[Pass]:
        """The passes read since the last were taken; forgets them.

        Raises:
            ValueError: if there was none, or one that did not come through all blocks.
        """
        passes, self._passes = self._passes, []
        if not passes:
            raise ValueError(
                "expected a forward pass through the model's blocks, saw none; make the pass that trains in the same "
                "step, under grad and with the adapters that were active when the regularizer was attached"
            )
        for one in passes:
            if len(one.all) != len(self.vectors.layers):
                raise ValueError(f"a pass came through {len(one.all)} of {len(self.vectors.layers)} hooked blocks")
        return passes

    def on_block(self, layer: int, hidden_BTD: Tensor) -> Tensor | None:
        """The hook at each layer: reads the residual stream; replaces it, if at all, by a view of itself."""
        if not self._counts():
            return None
        if layer == self.vectors.layers[0]:
            # Prompt tuning's virtual tokens come first, in all that the model is given or in some of it: no scope
            # counts them.
            T = hidden_BTD.shape[1] - self._virtual
            given = {name: value[..., -T:] for name, value in self._given.items()}
            if not {"input_ids", "attention_mask"} & given.keys():
                given["attention_mask"] = torch.ones_like(hidden_BTD[:, -T:, 0], dtype=torch.long)
            self._passes.append(Pass(given))
            self._given = {}
        if not self._passes:
            raise ValueError(f"block {layer} ran before block {self.vectors.layers[0]}; emoreg cannot read this model")
        if not (self.watch_gradient and hidden_BTD.requires_grad):
            self._read(layer, hidden_BTD)
            return None
        # Two views part the gradients that meet at this tensor: the term's own here, and all that comes from above.
        here, above = hidden_BTD.view_as(hidden_BTD), hidden_BTD.view_as(hidden_BTD)
        here.register_hook(partial(self._record_gradient, "term", layer))
        above.register_hook(partial(self._record_gradient, "task", layer))
        self._read(layer, here)
        return above

    def _on_call(self, names: list[str], module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        # Two dimensions or more: a label of a whole sequence is none of ours, and a trainer that borrows `forward` for
        # a function of its own (TRL's distillation, to go through DDP) gives that one's arguments.
        seen = {name: v for name in SEEN if isinstance(v := given.get(name), Tensor) and v.ndim >= 2}
        self._given = seen if module is self._inner else seen | self._given

    def _forget(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._given = {}

    def _counts(self) -> bool:
        if self.mode == "off" or torch.is_grad_enabled() != (self.mode == "train"):
            return False
        return active_adapters(self._model) == self._adapters

    def _record_gradient(self, whose: str, layer: int, grad: Tensor) -> None:
        norm = grad.float().norm()
        if self.scaler is not None:
            # Not get_scale(): it would make the host wait.
            norm = norm / self.scaler.scale(torch.ones_like(norm))
        # Micro-batches and ranks have positions of their own: squares add up to that of the whole batch.
        self._statistics.count(f"gradient/{whose}/layer_{layer}", norm.square())

    def _read(self, layer: int, hidden_BTD: Tensor) -> None:
        if layer not in self._constants:
            row = self.vectors.layers.index(layer)
            v, device = self.vectors, hidden_BTD.device
            self._constants[layer] = v.directions[row].to(device), v.mean[row].to(device), v.std[row].to(device)
        directions_KD, mean_K, std_K = self._constants[layer]
        P, virtual = self.n_penalised, self._virtual
        readings_BTP, readings_BTK = project(hidden_BTD, directions_KD, P)
        self._passes[-1].penalised.append(standardise(readings_BTP, mean_K[:P], std_K[:P])[:, virtual:])
        self._passes[-1].all.append(standardise(readings_BTK, mean_K, std_K)[:, virtual:])


def _uncompiled(hook: Callable) -> Any:
    """A hook that stays out of compiled graphs, whose guards know nothing of modes and passes."""
    return torch.compiler.disable(hook)
