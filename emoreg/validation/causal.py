"""What a direction does when it is added: words that it promotes, and what the model writes under a dose of it.

Shapes: L layers, K emotions, D width, V vocabulary, N texts, P positions of a prompt, T of a text.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from emoreg.model import backbone, evaluating, gathered, input_device, is_sharded, steer, unwrap, width
from emoreg.reading import z_of
from emoreg.validation.scores import spearman
from emoreg.vectors import EmotionVectors

DOSES = (-0.1, -0.05, 0.0, 0.05, 0.1)
"""Strengths of steering, in units of the layer's mean residual norm (Sofroniew et al. 2026)."""


def logit_lens(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, vectors: EmotionVectors, layer: int, words: int = 8
) -> dict[str, list[str]]:
    """The tokens that each direction, added at one layer, promotes most by the final norm's scale and the head alone.

    Empty for a model without a head.
    """
    head: Any = cast(Any, unwrap(model)).get_output_embeddings()
    if head is None:
        return {}
    directions_KD = vectors.directions[vectors.layers.index(layer)]
    scale = _final_norm(model)
    if scale is not None:
        directions_KD = directions_KD * scale
    with gathered(head.weight) as weight_VD, torch.no_grad():
        logits_KV = directions_KD.to(weight_VD.device) @ weight_VD.float().T
    top = logits_KV.topk(words, dim=-1).indices.tolist()
    return {
        emotion: [str(tokenizer.decode([token])).strip() for token in tokens]
        for emotion, tokens in zip(vectors.emotions, top, strict=True)
    }


def _final_norm(model: nn.Module) -> Tensor | None:
    """The weight of the norm between the last block and the head: the backbone's own last one-dimensional weight."""
    weights = [getattr(child, "weight", None) for child in backbone(model).children()]
    found = [w for w in weights if isinstance(w, Tensor) and w.shape == (width(model),)]
    if not found:
        return None
    with gathered(cast(nn.Parameter, found[-1])) as weight:
        return weight.detach().float().cpu()


def dose_response(
    model: nn.Module,
    vectors: EmotionVectors,
    emotion: str,
    act: Callable[[], Any],
    score: Callable[[Any], float] = float,
    *,
    layers: Sequence[int] | None = None,
    doses: Sequence[float] = DOSES,
) -> dict[str, Any]:
    """What becomes of what a model does as a direction is added to its residual stream, dose by dose.

    Args:
        model: the model to steer.
        vectors: its vectors.
        emotion: whose direction is added.
        act: what the model does under the dose: text it writes, say; the same task each time.
        score: a number for that, taken when the dose is gone.
        layers: where it is added; everywhere by default.
        doses: strengths, ascending, in units of a layer's mean residual norm.

    Returns:
        ``doses``, ``effects``, ``rho`` (Spearman's, of effect with dose), ``slope`` (effect per unit of strength, by
        least squares) and ``monotone``, whether no dose has less effect than a lower one.

    Raises:
        ValueError: for an unknown emotion or layer.
    """
    chosen = vectors.select([emotion], None if layers is None else list(layers))
    push_LD = chosen.residual_norm[:, None] * chosen.directions[:, 0]
    effects = []
    for dose in doses:
        with steer(model, chosen.layers, dose * push_LD):
            acted = act()
        effects.append(score(acted))
    rho = spearman(doses, effects)
    centred = torch.tensor(doses) - sum(doses) / len(doses)
    slope = float((centred * torch.tensor(effects)).sum() / centred.square().sum())
    rising = all(after >= before for before, after in pairwise(effects))
    return {"doses": list(doses), "effects": effects, "rho": rho, "slope": slope, "monotone": rising}


def can_write(model: nn.Module) -> bool:
    """Whether the model can generate text here; one whose weights are sharded over ranks is not asked to."""
    inner: Any = unwrap(model)
    return hasattr(inner, "generate") and inner.can_generate() and not is_sharded(model)


def write_on(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts_NP: Int[Tensor, "N P"],
    *,
    new_tokens: int = 24,
    seed: int = 0,
) -> Int[Tensor, "N T"]:
    """Prompts of one length with what the model writes on from each, sampled, all as long."""
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id or 0
    prompts_NP = prompts_NP.to(input_device(model))
    with evaluating(model), torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        return cast(Any, unwrap(model)).generate(
            input_ids=prompts_NP,
            attention_mask=torch.ones_like(prompts_NP),
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            pad_token_id=pad,
        )


def mean_z(
    model: nn.Module, vectors: EmotionVectors, emotion: str, layer: int, ids_NT: Int[Tensor, "N T"], begin: int
) -> float:
    """Mean z of one emotion at one layer over the texts' positions from ``begin`` on."""
    (z_NT1,) = z_of(model, vectors.select([emotion], [layer]), ids_NT, torch.ones_like(ids_NT))
    return float(z_NT1[:, begin:].mean())
