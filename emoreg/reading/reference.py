"""Neutral reference text, run through the model being trained: what anchors hold and contrasts are measured against.

Shapes: N reference texts, T positions, n the tokens that count among them, L layers, K emotions, P penalised.
"""

from collections import deque
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emoreg.model import backbone, compute_device, evaluating, is_sharded, learns_prompt, run_whole
from emoreg.reading.reader import Reader
from emoreg.vectors import EmotionVectors


class Reference:
    """The reference texts of a set of vectors, on a model's device."""

    def __init__(self, vectors: EmotionVectors, model: nn.Module, reader: Reader):
        device = compute_device(model)
        mask_NT = vectors.reference_mask
        self._model, self._reader = model, reader
        self._sharded = is_sharded(model)
        # A learned prompt comes in, and a sharded model is gathered, by the whole only; else its decoder will do.
        self._whole = learns_prompt(model) or self._sharded
        self._ids_NT = vectors.reference_ids.to(device)
        # Attention also needs what does not count (BOS): everything up to a text's last token.
        self._attention_NT = mask_NT.flip(1).cummax(1).values.flip(1).long().to(device)
        # Found on the host, once: to select by a mask on the device would wait for it.
        self._counting = [mask_T.nonzero()[:, 0].to(device) for mask_T in mask_NT]
        self._base_NTLK = vectors.reference_z.to(device)

        self.device = device

    @property
    def base(self) -> Float[Tensor, "L K"]:
        """`drift` of the base model, on the host."""
        return self._tokens(self._base_NTLK, slice(0, len(self))).mean(0).cpu()

    def __len__(self) -> int:
        return len(self._ids_NT)

    def turn(self, number: int, texts: int) -> slice:
        """The texts whose turn it is where so many are taken at a time, one turn after the other."""
        n = min(texts, len(self))
        at = number % (len(self) // n) * n
        return slice(at, at + n)

    def anchored(self, texts: slice) -> tuple[Float[Tensor, "n L P"], Float[Tensor, "n L P"]]:
        """z at the tokens of some texts: under the model as it is, with gradient, and under the base model."""
        z_NTLP = self._penalised(texts)
        base_NTLP = self._base_NTLK[texts][..., : self._reader.n_penalised]
        return self._tokens(z_NTLP, texts), self._tokens(base_NTLP, texts)

    @torch.no_grad()
    def drift(self) -> Float[Tensor, "L K"]:
        """Mean z over all their tokens under the model as it is. The base model's is 0, up to the choice of texts."""
        every = slice(0, len(self))
        with self._reader.reading("eval"), evaluating(self._model):
            self._forward(every)
            z_NTLK = torch.stack(self._reader.take()[0].all, 2)
        return self._tokens(z_NTLK, every).mean(0)

    def gradient_norm(self, place: int) -> float:
        """Norm, at the parameters that train, of the gradient of a text's mean z at a layer; 0 if there is none.

        The layer is given by its place among the vectors' layers.

        Taken with dropout off and past every hook on the gradients themselves, so that it leaves no trace.
        """
        first = slice(0, 1)
        with evaluating(self._model), torch.enable_grad():
            z = self._tokens(self._penalised(first), first)[:, place].mean()
        if not z.requires_grad:
            return 0.0
        leaves = _leaves(z)
        # A few at a time, from the nearest on: one will do, and an engine that shards them gathers what is asked for.
        for few in (leaves[at : at + 8] for at in range(0, len(leaves), 8)):
            gradients = torch.autograd.grad(z, few, allow_unused=True, retain_graph=True)
            norm = sum(g.float().square().sum().item() for g in gradients if g is not None) ** 0.5
            if norm:
                return norm
        return 0.0

    def _penalised(self, texts: slice) -> Float[Tensor, "N T L P"]:
        with self._reader.reading("train"):
            outputs = self._forward(texts)
            z_NTLP = torch.stack(self._reader.take()[0].penalised, 2)
        if self._sharded:
            # Engines that shard the weights look for a gradient at every one of them: FSDP1 gathers for backward from
            # the outputs on, and ZeRO-3 adds to what an earlier step left where the first backward brings none.
            everywhere = torch.ones_like(outputs.logits, dtype=torch.bool)
            z_NTLP = z_NTLP + outputs.logits.masked_fill(everywhere, 0.0).sum()
        return z_NTLP

    def _forward(self, texts: slice) -> Any:
        inputs = {"input_ids": self._ids_NT[texts], "attention_mask": self._attention_NT[texts], "use_cache": False}
        return run_whole(self._model, **inputs) if self._whole else backbone(self._model)(**inputs)

    def _tokens(self, z_NTLK: Tensor, texts: slice) -> Float[Tensor, "n L K"]:
        T = z_NTLK.shape[1]
        chosen = torch.cat([number * T + positions for number, positions in enumerate(self._counting[texts])])
        return z_NTLK.flatten(0, 1)[chosen.to(z_NTLK.device)]


def _leaves(z: Tensor) -> list[nn.Parameter]:
    """The parameters in a tensor's graph, the nearest first: what FSDP trains, say, is not what a model lists."""
    assert z.grad_fn is not None
    found, seen, queue = [], {z.grad_fn}, deque([z.grad_fn])
    while queue:
        node = queue.popleft()
        variable = getattr(node, "variable", None)
        if isinstance(variable, nn.Parameter):
            found.append(variable)
        later = [one for one, _ in node.next_functions if one is not None and one not in seen]
        seen.update(later)
        queue.extend(later)
    return found
