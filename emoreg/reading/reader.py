"""`Reader`: the hooks that turn a model's forward passes into z, at every layer of a set of vectors.

Shapes: B batch, T positions, D width, L layers, K emotions, P penalised emotions (the first P of the K).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emoreg.model import CountedPasses, Mode, backbone, hook_blocks, unwrap, virtual_tokens
from emoreg.reading.gradients import GradientNorms
from emoreg.reading.projection import project, standardise
from emoreg.vectors import EmotionVectors

SEEN = ("input_ids", "attention_mask", "position_ids", "labels")
"""Those of a model's arguments that scopes look at."""


@dataclass
class Pass:
    """One forward pass: what the model was given, and z per layer, in the order of the vectors' layers."""

    inputs: dict[str, Tensor]
    """Those of the model's tensor arguments that are in `SEEN`."""
    penalised: list[Float[Tensor, "B T P"]] = field(default_factory=list)
    """With gradient."""
    all: list[Float[Tensor, "B T K"]] = field(default_factory=list)
    """Without."""


class Reader:
    """Holds the passes that count until they are taken."""

    def __init__(self, vectors: EmotionVectors, model: nn.Module, n_penalised: int, gradients: GradientNorms):
        self.vectors = vectors
        self.n_penalised = n_penalised
        self.counted = CountedPasses(model)
        self.gradients = gradients
        self._inner = unwrap(model)
        self._virtual = virtual_tokens(model)
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
    def reading(self, mode: Mode, measure_gradient: bool = False) -> Iterator[None]:
        """Read the passes of one mode while the context is open; then go on as if they had not been."""
        before = self.gradients.on, self._passes, self._given
        self._passes, self._given, self.gradients.on = [], {}, measure_gradient
        try:
            with self.counted.during(mode):
                yield
        finally:
            self.gradients.on, self._passes, self._given = before

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
        if not self.counted():
            return None
        if layer == self.vectors.layers[0]:
            self._begin(hidden_BTD)
        if not self._passes:
            raise ValueError(f"block {layer} ran before block {self.vectors.layers[0]}; emoreg cannot read this model")
        if not (self.gradients.on and hidden_BTD.requires_grad):
            self._read(layer, hidden_BTD)
            return None
        for_term, above = self.gradients.part(layer, hidden_BTD)
        self._read(layer, for_term)
        return above

    def _begin(self, hidden_BTD: Tensor) -> None:
        # Prompt tuning's virtual tokens come first, in all that the model is given or in some of it: no scope counts
        # them.
        T = hidden_BTD.shape[1] - self._virtual
        given = {name: value[..., -T:] for name, value in self._given.items()}
        if not {"input_ids", "attention_mask"} & given.keys():
            given["attention_mask"] = torch.ones_like(hidden_BTD[:, -T:, 0], dtype=torch.long)
        self._passes.append(Pass(given))
        self._given = {}

    def _on_call(self, names: list[str], module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        given = dict(zip(names, args, strict=False)) | dict(kwargs)
        # Two dimensions or more: a label of a whole sequence is none of ours, and a trainer that borrows `forward` for
        # a function of its own (TRL's distillation, to go through DDP) gives that one's arguments.
        seen = {name: v for name in SEEN if isinstance(v := given.get(name), Tensor) and v.ndim >= 2}
        self._given = seen if module is self._inner else seen | self._given

    def _forget(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._given = {}

    def _read(self, layer: int, hidden_BTD: Tensor) -> None:
        if layer not in self._constants:
            at = self.vectors.layers.index(layer)
            v, device = self.vectors, hidden_BTD.device
            self._constants[layer] = v.directions[at].to(device), v.mean[at].to(device), v.std[at].to(device)
        directions_KD, mean_K, std_K = self._constants[layer]
        P, virtual = self.n_penalised, self._virtual
        readings_BTP, readings_BTK = project(hidden_BTD, directions_KD, P)
        self._passes[-1].penalised.append(standardise(readings_BTP, mean_K[:P], std_K[:P])[:, virtual:])
        self._passes[-1].all.append(standardise(readings_BTK, mean_K, std_K)[:, virtual:])


def _uncompiled(hook: Callable) -> Any:
    """A hook that stays out of compiled graphs, whose guards know nothing of modes and passes."""
    return torch.compiler.disable(hook)
