"""The term's gradient, written out: one text at a time, without padding, from `output_hidden_states`."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback

from emoreg import Anchor, Band, EmotionVectors, Hinge, Regularizer, RegularizerCallback
from emoreg.model.wrappers import unwrap
from emoreg.reading import ReferenceText
from tests.support import KeepGradients, gradients, random_vectors
from tests.trainers.cases import Case, Text

HINGE = Hinge("desperate", weight=0.5, threshold=-0.5)
BAND = Band("calm", weight=0.7, low=-0.2, high=0.3)
ANCHOR = Anchor("desperate", weight=0.4, every=1, texts=4)


def term_alone(trainer: Trainer, vectors: EmotionVectors, penalties=(HINGE, BAND, ANCHOR)):
    """Train a step whose task loss is multiplied by 0; returns the gradients, the batches and the reference text."""
    batches: list[dict[str, Any]] = []
    compute_loss = trainer.compute_loss

    def no_task(model, inputs, *args, **kwargs):
        batch = {name: v.clone() if isinstance(v, Tensor) else v for name, v in inputs.items()}
        batches.append(batch | {"counted by the trainer": kwargs.get("num_items_in_batch")})
        return compute_loss(model, inputs, *args, **kwargs) * 0

    trainer.compute_loss = no_task
    keep = KeepGradients()
    trainer.add_callback(keep)
    callback = RegularizerCallback(trainer, Regularizer(vectors, penalties))
    trainer.add_callback(callback)
    held = KeepReference(callback)
    trainer.add_callback(held)
    trainer.train()
    return keep.gradients, batches, held.text


class KeepReference(TrainerCallback):
    """The reference text that a run holds."""

    def __init__(self, callback: RegularizerCallback):
        self._callback = callback

    def on_step_begin(self, args, state, control, **kwargs):
        self.text = self._callback._term.reference.text


def states(model: nn.Module, ids: Sequence[int]) -> Sequence[Tensor]:
    """Every block's output (T, D) on one text; the final norm is lifted off for the last."""
    decoder: Any = unwrap(model)
    norm, decoder.model.norm = decoder.model.norm, nn.Identity()
    try:
        hidden = model(torch.tensor([list(ids)]), output_hidden_states=True, use_cache=False).hidden_states
    finally:
        decoder.model.norm = norm
    return [h[0] for h in hidden[1:]]


def of_text(model: nn.Module, text: Text, vectors: EmotionVectors) -> Tensor:
    """Hinge and band at each position that counts (n,), weighted, mean over layers."""
    total = torch.zeros(len(text.counted))
    hidden = states(model, text.ids)
    for row, layer in enumerate(vectors.layers):
        for penalty in (HINGE, BAND):
            k = vectors.emotions.index(penalty.emotion)
            z = (hidden[layer] @ vectors.directions[row, k] - vectors.mean[row, k]) / vectors.std[row, k]
            z = z[text.counted]
            if penalty is HINGE:
                value = (z - HINGE.threshold).clamp(min=0) ** 2
            else:
                value = (z - BAND.high).clamp(min=0) ** 2 + (BAND.low - z).clamp(min=0) ** 2
            total = total + penalty.weight * value / len(vectors.layers)
    return total


def anchored(model: nn.Module, vectors: EmotionVectors, text: ReferenceText) -> Tensor:
    """The anchor over the reference texts of the first step, whose base z are those of before it."""
    errors = []
    k = vectors.emotions.index(ANCHOR.emotion)
    for n in range(ANCHOR.texts):
        counted = text.mask[n].nonzero()[:, 0]
        hidden = states(model, text.ids[n][: int(counted.max()) + 1].tolist())
        for row, layer in enumerate(vectors.layers):
            z = (hidden[layer] @ vectors.directions[row, k] - vectors.mean[row, k]) / vectors.std[row, k]
            errors.append((z[counted] - text.z[n, counted, row, 0]) ** 2)
    return ANCHOR.weight * torch.cat(errors).mean()


def window(case: Case, model: nn.Module, batches: Sequence[Mapping[str, Tensor]], vectors: EmotionVectors) -> Tensor:
    """The term of one optimizer step over its micro-batches."""
    read = [case.sequences(batch) for batch in batches]
    values = [[of_text(model, text, vectors) for text in texts] for texts, _ in read]
    if case.of != "sequences":
        n = sum(len(text.counted) for texts, _ in read for text in texts)
        n = n if case.of == "tokens" else batches[0]["counted by the trainer"]
        return sum((value.sum() for batch in values for value in batch), torch.zeros(())) / n
    means = [
        sum((value.mean() for value in batch if len(value)), torch.zeros(())) / n
        for batch, (_, n) in zip(values, read, strict=True)
    ]
    return sum(means, torch.zeros(())) / len(means)


def gradient_error(case: Case, output_dir: object, **options: Any) -> float:
    """Relative error of the term's gradient over all parameters, in a real step of a real trainer."""
    model = case.model()
    vectors = random_vectors(model)
    trainer = case.trainer(model, output_dir, **options)
    got, batches, text = term_alone(trainer, vectors)
    tuned: Any = trainer.model
    tuned.zero_grad()
    tuned.gradient_checkpointing_disable()
    tuned.eval()
    (window(case, tuned, batches, vectors) + anchored(tuned, vectors, text)).backward()
    expected = gradients(tuned)
    assert expected
    assert got.keys() == expected.keys()
    gap = torch.cat([(got[name] - g).flatten() for name, g in expected.items()]).norm()
    return (gap / torch.cat([g.flatten() for g in expected.values()]).norm()).item()
