"""Neutral reference text, run through the model being trained: what anchors hold and contrasts are measured against.

Shapes: N reference texts, T their tokens, L layers, K emotions, P penalised emotions.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from emoreg.reader import Reader
from emoreg.residual import backbone, evaluating
from emoreg.vectors import EmotionVectors


class Reference:
    """The reference texts of a set of vectors, on a model's device."""

    def __init__(self, vectors: EmotionVectors, model: nn.Module, reader: Reader):
        device = next(model.parameters()).device
        self._model, self._reader = model, reader
        self._ids_NT = vectors.reference_ids.to(device)
        self._counts_NT = vectors.reference_mask.to(device)
        # Attention also needs what does not count (BOS): everything up to a text's last token.
        self._attention_NT = self._counts_NT.flip(1).cummax(1).values.flip(1)
        self._base_NLK = vectors.reference_z.to(device)

    def __len__(self) -> int:
        return len(self._ids_NT)

    def anchored(self, texts: slice) -> tuple[Float[Tensor, "N L P"], Float[Tensor, "N L P"]]:
        """Mean z over each of some texts under the model as it is, with gradient, and under the base model."""
        with self._reader.reading("train"):
            self._forward(texts)
            z = self._reader.take(self._ids_NT[texts].shape).penalised
        return self._text_means(z, texts), self._base_NLK[texts][..., : self._reader.n_penalised]

    @torch.no_grad()
    def drift(self) -> Float[Tensor, "L K"]:
        """Mean z over all texts under the model as it is. The base model's is 0, up to the choice of texts."""
        every = slice(0, len(self))
        with self._reader.reading("eval"), evaluating(self._model):
            self._forward(every)
            z = self._reader.take(self._ids_NT.shape).all
        return self._text_means(z, every).mean(0)

    def _forward(self, texts: slice) -> None:
        backbone(self._model)(
            input_ids=self._ids_NT[texts], attention_mask=self._attention_NT[texts].long(), use_cache=False
        )

    def _text_means(self, z_LNTK: list[Tensor], texts: slice) -> Float[Tensor, "N L K"]:
        counts_NT1 = self._counts_NT[texts][..., None]
        inside = [torch.where(counts_NT1, z_NTK.to(counts_NT1.device), 0.0).sum(1) for z_NTK in z_LNTK]
        return torch.stack(inside, 1) / counts_NT1.sum(1)[:, None].clamp(min=1)
