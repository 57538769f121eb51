"""What holds the emotion while the real model is fine-tuned: emoreg's sets, and other ways to compare them with.

The other ways are written for this comparison alone, in the plainest form, on the trainer's own `compute_loss`.

Shapes: B rows, T positions, L layers.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from evidence.tone import UNLIKE
from torch import Tensor
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback

import emoreg
from emoreg import Anchor, EmotionVectors, Hinge
from emoreg.model import hook_blocks, without_adapters

EMOTION = "desperate"


@contextmanager
def installed(
    arm: str, trainer: Trainer, tokenizer: PreTrainedTokenizerBase, vectors: EmotionVectors
) -> Iterator[list[float]]:
    """The arm in a trainer, for as long as the context is open; every run is watched by emoreg's own callback.

    Gives the task loss of each step, for the arms whose term emoreg does not know.
    """
    task: list[float] = []
    n = len(vectors.layers)
    penalties, references = ARMS[arm](list(vectors.layers), n) if arm in ARMS else ([], "rows")
    emoreg.regularize(
        trainer, vectors, penalties=penalties, references=references, monitor=[EMOTION, "calm"], own_text_every=20
    )
    with ExitStack() as stack:
        if arm in LOSSES:
            trainer.add_callback(_Outermost(trainer, LOSSES[arm](trainer, tokenizer, vectors), task))
        if arm == "preventative steering":
            stack.enter_context(_steered(trainer, vectors, 0.05))
        yield task


def _pair(hinge: float, anchor: float, layers: Any = None) -> list[Any]:
    return [Hinge(EMOTION, weight=hinge, layers=layers), Anchor(EMOTION, weight=anchor, layers=layers)]


Penalties = Callable[[list[int], int], tuple[list[Any] | None, Any]]

ARMS: dict[str, Penalties] = {
    "default": lambda layers, n: (None, "rows"),
    "0.1": lambda layers, n: (_pair(0.05, 0.3), "file"),
    "early blocks": lambda layers, n: (_pair(0.01, 0.1, layers[: n // 2]), "rows"),
    "late blocks": lambda layers, n: (_pair(0.01, 0.1, layers[n // 2 :]), "rows"),
}
for _hinge, _anchor in ((0.05, 0.3), (0.02, 0.1)):
    ARMS[f"hinge {_hinge} anchor {_anchor}"] = lambda layers, n, h=_hinge, a=_anchor: (_pair(h, a), "rows")


def _z(vectors: EmotionVectors, layer: int, hidden_BTD: Tensor, emotion: str = EMOTION) -> Tensor:
    at, k = vectors.layers.index(layer), vectors.index(emotion)
    readings = hidden_BTD.float() @ vectors.directions[at, k]
    return (readings - vectors.mean[at, k]) / vectors.std[at, k]


def _z_of_pass(model: Any, vectors: EmotionVectors, inputs: dict[str, Tensor]) -> Tensor:
    """z (L, B, T) of the penalised emotion in one more pass."""
    found: list[Tensor] = []
    ours = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
    with hook_blocks(model, vectors.layers, lambda layer, hidden: found.append(_z(vectors, layer, hidden))):
        model(**ours)
    return torch.stack(found)


def _base_relative(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, vectors: EmotionVectors) -> Callable:
    """One-sided, relative to the base (BLOCK-EM, arXiv 2602.00767): squared excess over its z of the same tokens."""

    def term(model: Any, inputs: dict[str, Tensor]) -> Tensor:
        with torch.no_grad(), without_adapters(model):
            base = _z_of_pass(model, vectors, inputs)
        excess = (_z_of_pass(model, vectors, inputs) - base).clamp(min=0)
        inside = inputs["labels"] != -100
        return 0.3 * (excess.square() * inside).sum() / (inside.sum() * len(excess))

    return term


def _held_rows(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, vectors: EmotionVectors) -> Callable:
    """The batch's own rows held where the base reads them, from both sides."""

    def term(model: Any, inputs: dict[str, Tensor]) -> Tensor:
        with torch.no_grad(), without_adapters(model):
            base = _z_of_pass(model, vectors, inputs)
        inside = inputs["labels"] != -100
        moved = _z_of_pass(model, vectors, inputs) - base
        return 0.3 * (moved.square() * inside).sum() / (inside.sum() * len(moved))

    return term


def _kl_on_own_replies(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, vectors: EmotionVectors) -> Callable:
    """KL(base, model) on the base's own replies to neutral prompts, two of them at each step."""
    model: Any = trainer.model
    chats = [
        tokenizer.apply_chat_template([{"role": "user", "content": p}], add_generation_prompt=True, tokenize=False)
        for p in UNLIKE[2:]
    ]
    rows: list[tuple[Tensor, int]] = []
    with without_adapters(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for chat in chats:
            ids = tokenizer(str(chat), add_special_tokens=False, return_tensors="pt")["input_ids"]
            out = model.generate(input_ids=ids, do_sample=True, max_new_tokens=64, pad_token_id=tokenizer.eos_token_id)
            rows.append((out, ids.shape[1]))
    turn = iter(range(10**9))

    def term(model: Any, inputs: dict[str, Tensor]) -> Tensor:
        ids, start = rows[next(turn) % len(rows)]
        with torch.no_grad(), without_adapters(model):
            base = model(input_ids=ids).logits[:, start - 1 : -1].float().log_softmax(-1)
        mine = model(input_ids=ids).logits[:, start - 1 : -1].float().log_softmax(-1)
        return (base.exp() * (base - mine)).sum(-1).mean()

    return term


def _within_batch(trainer: Trainer, tokenizer: PreTrainedTokenizerBase, vectors: EmotionVectors) -> Callable:
    """A hinge on z of the emotion less the mean z of all emotions, on the same tokens."""
    names = [one for one in vectors.emotions if one != EMOTION]

    def term(model: Any, inputs: dict[str, Tensor]) -> Tensor:
        found: list[Tensor] = []

        def read(layer: int, hidden: Tensor) -> None:
            others = torch.stack([_z(vectors, layer, hidden, name) for name in names]).mean(0)
            found.append(_z(vectors, layer, hidden) - others)

        ours = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        with hook_blocks(model, vectors.layers, read):
            model(**ours)
        excess, inside = torch.stack(found).clamp(min=0), inputs["labels"] != -100
        return 0.05 * (excess.square() * inside).sum() / (inside.sum() * len(excess))

    return term


LOSSES: dict[str, Callable] = {
    "one-sided, relative to the base": _base_relative,
    "own rows held": _held_rows,
    "KL on the base's replies": _kl_on_own_replies,
    "less the other emotions": _within_batch,
}


class _Outermost(TrainerCallback):
    """Adds a term round what emoreg's callback, which came first, has put into the loss: its passes are not counted."""

    def __init__(self, trainer: Trainer, term: Callable[[Any, dict[str, Tensor]], Tensor], task: list[float]):
        self._add = partial(_add_to_loss, trainer, term, task)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._add()


def _add_to_loss(trainer: Trainer, term: Callable[[Any, dict[str, Tensor]], Tensor], task: list[float]) -> None:
    compute_loss = trainer.compute_loss

    def with_term(model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        batch = dict(inputs)
        result = compute_loss(model, inputs, *args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        if torch.is_grad_enabled():
            task.append(float(loss.detach()))
            loss = loss + term(model, batch)
        return (loss, *result[1:]) if isinstance(result, tuple) else loss

    trainer.compute_loss = with_term


@contextmanager
def _steered(trainer: Trainer, vectors: EmotionVectors, strength: float) -> Iterator[None]:
    """Preventative steering (arXiv 2507.21509, 5.2): the emotion is supplied in training, and need not be learned."""
    k, n = vectors.index(EMOTION), len(vectors.layers)
    layers = vectors.layers[n * 2 // 5 : n * 7 // 10]
    each = strength / len(layers)

    def push(layer: int, hidden: Tensor) -> Tensor | None:
        if not torch.is_grad_enabled():
            return None
        at = vectors.layers.index(layer)
        return hidden + (each * vectors.residual_norm[at] * vectors.directions[at, k]).to(hidden.dtype)

    with hook_blocks(trainer.model, layers, push):  # pyright: ignore[reportArgumentType]
        yield
