"""The texts that vectors are judged on, each as one vector per layer: all that validation looks at again and again.

Shapes: L layers, N texts, D width, K emotions.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from emoreg.corpus import LabelledText, read_from
from emoreg.extraction import (
    NEED_PRODUCTS,
    Moments,
    Sample,
    Stream,
    Tokens,
    fit,
    folds_of,
    group_of,
    text_vectors,
    tokenise,
)
from emoreg.model import embeddings, gathered


@dataclass(frozen=True)
class Texts:
    """A corpus as a model sees it."""

    corpus: tuple[LabelledText, ...]
    emotions: tuple[str, ...]
    """K names, in the order of the vectors that are judged."""
    layers: tuple[int, ...]
    """L block numbers."""
    vectors: Float[Tensor, "L N D"]
    """Each text's mean hidden state over the tokens that are read, fp32."""
    embedded: Float[Tensor, "N D"]
    """The mean of the same tokens' embeddings: what is there before any block."""
    emotion: Int[Tensor, " N"]
    group: Int[Tensor, " N"]
    """Number of the group (scenario) that a text belongs to."""
    fold: Int[Tensor, " N"]
    """In which fold it is held out, together with its whole group."""
    lengths: Int[Tensor, " N"]
    """How many tokens are read."""

    @property
    def read(self) -> list[str]:
        """The part of each text that is read."""
        return [item.text[read_from(item.text) :] for item in self.corpus]


def collect(
    stream: Stream,
    tokenizer: PreTrainedTokenizerBase,
    corpus: Sequence[LabelledText],
    emotions: Sequence[str],
    *,
    from_token: int,
    folds: int,
    max_texts: int,
    seed: int,
) -> Texts:
    """One forward pass over the texts of these emotions, and their division into folds.

    Where there are more than ``max_texts``, as many of each emotion are taken, whole groups first, in a random order.

    Raises:
        ValueError: for fewer groups than folds, or anything that extraction refuses.
    """
    kept = _some([item for item in corpus if item.emotion in emotions], max_texts // len(emotions), seed)
    fold = folds_of(kept, emotions, folds, seed)
    tokens = tokenise(stream.model, tokenizer, [item.text for item in kept], from_token)
    names = [group_of(item) for item in kept]
    number = {name: n for n, name in enumerate(dict.fromkeys(names))}
    return Texts(
        corpus=tuple(kept),
        emotions=tuple(emotions),
        layers=stream.layers,
        vectors=text_vectors(stream, tokens),
        embedded=_embedded(stream.model, tokens),
        emotion=torch.tensor([emotions.index(item.emotion) for item in kept]),
        group=torch.tensor([number[name] for name in names]),
        fold=torch.tensor(fold),
        lengths=torch.tensor([text.end - text.first for text in tokens]),
    )


def _some(corpus: Sequence[LabelledText], per_emotion: int, seed: int) -> list[LabelledText]:
    groups = list(dict.fromkeys(map(group_of, corpus)))
    turn = {group: n for n, group in enumerate(random.Random(seed).sample(groups, len(groups)))}
    taken, left = set[int](), dict.fromkeys((item.emotion for item in corpus), per_emotion)
    for n in sorted(range(len(corpus)), key=lambda n: turn[group_of(corpus[n])]):
        if left[corpus[n].emotion]:
            left[corpus[n].emotion] -= 1
            taken.add(n)
    return [corpus[n] for n in sorted(taken)]


def directions_from(
    vectors_LND: Float[Tensor, "L N D"], emotion_N: Int[Tensor, " N"], emotions: Sequence[str], estimator: str
) -> Float[Tensor, "L K D"]:
    """Directions from some texts' vectors, by the estimator that extraction uses on its stream of them; fp32."""
    member_KN = torch.nn.functional.one_hot(emotion_N, len(emotions)).double().T
    exact_LND = vectors_LND.double()
    moments = Moments(
        layers=tuple(range(len(vectors_LND))),
        count=member_KN.sum(1),
        sums=member_KN @ exact_LND,
        products=exact_LND.mT @ exact_LND if estimator in NEED_PRODUCTS else None,
    )
    return fit(estimator, moments, emotions, Sample(exact_LND, emotion_N))[:, :, 0].float()


def _embedded(model: nn.Module, tokens: Sequence[Tokens]) -> Float[Tensor, "N D"]:
    with gathered(embeddings(model).weight) as weight, torch.no_grad():
        rows = [weight[text.ids[text.first : text.end].long().to(weight.device)] for text in tokens]
        return torch.stack([row.float().mean(0).cpu() for row in rows])
