"""Reference text, run through the model being trained: what anchors hold and contrasts are measured against.

Shapes: N reference texts, R of these and of the training rows below them, T positions, n the tokens that count among
them, L layers, K emotions, P penalised.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from emoreg.model import backbone, compute_device, evaluating, is_sharded, learns_prompt, run_whole
from emoreg.reading.as_text import from_text, to_text
from emoreg.reading.reader import Reader
from emoreg.vectors import EmotionVectors

READ = 16
"""How many reference texts are read at a log: all of them are anchored, in turn."""


@dataclass(frozen=True)
class ReferenceText:
    """Text that is held where the base model reads it, and rows whose readings are compared with the base's."""

    ids: Int[Tensor, "R T"]
    mask: Bool[Tensor, "R T"]
    """The tokens that count."""
    z: Float[Tensor, "N t L P"]
    """z of the penalised emotions under the base model, as far as the longest of the texts goes."""
    base: Float[Tensor, "L K"]
    """Mean z over the counting tokens of the first `READ` reference texts under the base model."""
    own_base: Float[Tensor, "L K"]
    """The same of the rows; NaN where there are none."""

    @classmethod
    def of_vectors(cls, vectors: EmotionVectors, n_penalised: int) -> "ReferenceText":
        """The plain texts that travel in the vectors' file, of which the base's readings are known."""
        return cls.of_readings(
            vectors.reference_ids, vectors.reference_mask, vectors.reference_z, n_own=0, n_penalised=n_penalised
        )

    @classmethod
    def of_readings(
        cls, ids: Tensor, mask: Tensor, z: Float[Tensor, "R T L K"], *, n_own: int, n_penalised: int
    ) -> "ReferenceText":
        """Texts, the last ``n_own`` of them training rows, and every emotion's z at their tokens under the base."""
        n = len(ids) - n_own
        r = min(n, READ)
        own = z[n:][mask[n:]].mean(0) if n_own else torch.full(z.shape[2:], torch.nan)
        longest = int(mask[:n].nonzero()[:, 1].max()) + 1
        return cls(ids, mask, z[:n, :longest, ..., :n_penalised].clone(), z[:r][mask[:r]].mean(0), own)

    def state(self) -> dict[str, str]:
        """All of it, as JSON can hold it: a run that resumes may have no base model to read it by."""
        return {field.name: to_text(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def of_state(cls, state: Mapping[str, str]) -> "ReferenceText":
        """From a `state`."""
        return cls(**{field.name: from_text(state[field.name]) for field in fields(cls)})


class Reference:
    """A reference text on a model's device."""

    def __init__(self, text: ReferenceText, model: nn.Module, reader: Reader):
        self.device = compute_device(model)
        self._model, self._reader = model, reader
        self._sharded = is_sharded(model)
        # A learned prompt comes in, and a sharded model is gathered, by the whole only; else its decoder will do.
        self._whole = learns_prompt(model) or self._sharded
        self.hold(text)

    def hold(self, text: ReferenceText) -> None:
        """Take another text's place."""
        mask_NT, device = text.mask, self.device
        self.text = text
        self._ids_NT = text.ids.to(device)
        # Attention also needs what does not count (BOS, a prompt): everything up to a text's last token.
        self._attention_NT = mask_NT.flip(1).cummax(1).values.flip(1).long().to(device)
        self._ends = [int(mask_T.nonzero().max()) + 1 for mask_T in mask_NT]
        # Found on the host, once: to select by a mask on the device would wait for it.
        self._counting = [mask_T.nonzero()[:, 0].to(device) for mask_T in mask_NT]
        self._base_NTLP = text.z.to(device)
        self._own_base_LK = text.own_base.to(device)

    def __len__(self) -> int:
        return len(self._base_NTLP)

    def turn(self, number: int, texts: int) -> slice:
        """The texts whose turn it is where so many are taken at a time, one turn after the other."""
        n = min(texts, len(self))
        at = number % (len(self) // n) * n
        return slice(at, at + n)

    def anchored(self, texts: slice) -> tuple[Float[Tensor, "n L P"], Float[Tensor, "n L P"]]:
        """z at the tokens of some texts: under the model as it is, with gradient, and under the base model."""
        z_NTLP = self._penalised(texts)
        return self._tokens(z_NTLP, texts), self._tokens(self._base_NTLP[texts], texts)

    @torch.no_grad()
    def read(self) -> tuple[Float[Tensor, "L K"], Float[Tensor, "L K"]]:
        """Mean z over the tokens of `READ` texts under the model as it is; of the training rows, less the base's."""
        texts, own = slice(0, min(READ, len(self))), slice(len(self), len(self._ids_NT))
        neutral_LK = self._mean(texts)
        if own.start == own.stop:
            return neutral_LK, self._own_base_LK
        gap_LK = self._mean(own)
        return neutral_LK, gap_LK - self._own_base_LK.to(gap_LK.device)

    def _mean(self, texts: slice) -> Float[Tensor, "L K"]:
        with self._reader.reading("eval"), evaluating(self._model):
            self._forward(texts)
            z_NTLK = torch.stack(self._reader.take()[0].all, 2)
        return self._tokens(z_NTLK, texts).mean(0)

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
        # No wider than the longest of these: one long row of the training data would pad them all.
        some = texts, slice(max(self._ends[texts]))
        inputs = {"input_ids": self._ids_NT[some], "attention_mask": self._attention_NT[some], "use_cache": False}
        return run_whole(self._model, **inputs) if self._whole else backbone(self._model)(**inputs)

    def _tokens(self, z_NTLK: Tensor, texts: slice) -> Float[Tensor, "n L K"]:
        """What counts of texts, of which ``z_NTLK`` has these and no others."""
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
