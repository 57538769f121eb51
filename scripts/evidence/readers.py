"""Two readers of the same words: z of texts, and of what a model writes, under whatever model is given.

Shapes: B texts, T tokens, L layers, K emotions, D width.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from evidence.tone import Pair
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from emoreg import EmotionVectors
from emoreg.model import evaluating, hook_blocks

Ids = list[int]


class Read(NamedTuple):
    """What a model makes of some replies."""

    z: np.ndarray
    """(B, K) z of each reply, mean over its tokens and over the layers read."""
    nll: np.ndarray
    """(B,) mean loss per token of each reply."""
    hidden: np.ndarray
    """(B, D) mean hidden state of each reply at the middle one of the layers read."""


def encoded(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair]) -> list[tuple[Ids, Ids]]:
    """Prompt, with all that the chat template puts before a reply, and reply, as ids."""
    found = []
    for prompt, reply in pairs:
        chat = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
        )
        found.append(tuple(tokenizer(part, add_special_tokens=False)["input_ids"] for part in (str(chat), reply)))
    return found


@torch.no_grad()
def read(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    vectors: EmotionVectors,
    layers: Sequence[int],
    pairs: Sequence[Pair],
    batch: int = 12,
) -> Read:
    """Read replies in the chat template, each from its first token on."""
    at = [vectors.layers.index(layer) for layer in layers]
    middle, z, nll, hidden = layers[len(layers) // 2], [], [], []
    coded = encoded(tokenizer, pairs)
    order = sorted(range(len(coded)), key=lambda n: sum(map(len, coded[n])))
    for some in (order[first : first + batch] for first in range(0, len(order), batch)):
        rows = [torch.tensor(coded[n][0] + coded[n][1]) for n in some]
        ids = pad_sequence(rows, batch_first=True)
        inside = torch.stack([_span(ids.shape[1], len(coded[n][0]), sum(map(len, coded[n]))) for n in some])
        means: dict[int, Tensor] = {}

        def keep(layer: int, states: Tensor, inside: Tensor = inside, means: dict[int, Tensor] = means) -> None:
            means[layer] = (states.float() * inside[..., None]).sum(1) / inside.sum(1, keepdim=True)

        with evaluating(model), hook_blocks(model, layers, keep):
            logits = model(input_ids=ids, attention_mask=_before(inside).long()).logits
        logp = logits[:, :-1].float().log_softmax(-1).gather(2, ids[:, 1:, None])[..., 0]
        nll.append(-(logp * inside[:, 1:]).sum(1) / inside[:, 1:].sum(1))
        readings = torch.stack([means[layer] @ vectors.directions[n].T for n, layer in zip(at, layers, strict=True)])
        z.append(((readings - vectors.mean[at][:, None]) / vectors.std[at][:, None]).mean(0))
        hidden.append(means[middle])
    back = np.argsort(order)
    return Read(*(torch.cat(part).numpy()[back] for part in (z, nll, hidden)))


@torch.no_grad()
def write(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    samples: int,
    tokens: int,
    seed: int,
    batch: int = 24,
) -> list[Pair]:
    """Sample a model's own replies (temperature .8, top-p .95); those that are blank are left out."""
    torch.manual_seed(seed)
    found = []
    asked = [prompt for prompt in prompts for _ in range(samples)]
    for some in (asked[first : first + batch] for first in range(0, len(asked), batch)):
        rows = [torch.tensor(ids).flip(0) for ids, _ in encoded(tokenizer, [Pair(prompt, "") for prompt in some])]
        ids, there = (
            pad_sequence(part, batch_first=True).flip(1) for part in (rows, [torch.ones_like(row) for row in rows])
        )
        with evaluating(model):
            out = model.generate(  # pyright: ignore[reportCallIssue] - GenerationMixin's
                input_ids=ids, attention_mask=there, do_sample=True, temperature=0.8, top_p=0.95, top_k=0,
                max_new_tokens=tokens, pad_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
        replies = tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
        found += [Pair(prompt, reply) for prompt, reply in zip(some, replies, strict=True) if reply.strip()]
    return found


def fresh_auc(hidden: dict[str, np.ndarray], scenes: Sequence[str]) -> float:
    """AUC of a probe fitted anew, desperate against calm, on scenes that it has not seen (five folds)."""
    x = np.concatenate([hidden["desperate"], hidden["calm"]])
    y, groups = np.repeat([1, 0], len(scenes)), np.tile(scenes, 2)
    found = []
    for fit, held in GroupKFold(5).split(x, y, groups):
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000)).fit(x[fit], y[fit])
        found.append(roc_auc_score(y[held], probe.decision_function(x[held])))
    return float(np.mean(found))


@contextmanager
def as_base(model: nn.Module, base: nn.Module | None) -> Iterator[nn.Module]:
    """The frozen base of a tuned model: a copy where one was kept, else the model with its adapters off."""
    if base is not None:
        yield base
    else:
        with model.disable_adapter():  # pyright: ignore[reportCallIssue] - peft's
            yield model


def _span(length: int, first: int, end: int) -> Tensor:
    where = torch.arange(length)
    return (where >= first) & (where < end)


def _before(inside: Tensor) -> Tensor:
    """Everything up to the last position inside."""
    return inside.flip(1).cummax(1).values.flip(1)
