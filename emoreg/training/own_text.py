"""A few replies that the model in training writes itself, under two readers: itself, and its frozen base.

Shapes: B replies, T positions, L layers, K emotions.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase, Trainer

from emoreg.model import (
    active_adapters,
    base_is_rewritten,
    evaluating,
    input_device,
    is_sharded,
    learns_prompt,
    unwrap,
    without_adapters,
)
from emoreg.reading import leads, rows_of, z_of
from emoreg.vectors import EmotionVectors

REPLIES, TOKENS = 4, 32


class OwnText:
    """Samples replies to the prompts of training rows, and reads them."""

    def __init__(
        self,
        trainer: Trainer,
        vectors: EmotionVectors,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Mapping[str, Tensor]],
    ):
        self._trainer, self._vectors, self._tokenizer = trainer, vectors, tokenizer
        found = leads(rows_of(rows), tokenizer, longest=128)
        self._leads = [lead for lead in found if lead][: 4 * REPLIES : 4]

    @staticmethod
    def possible(trainer: Trainer) -> bool:
        """Whether there is a base to read by, adapters off, and a whole model to sample from."""
        model, wrapped = cast(Any, trainer.model), cast(Any, trainer.model_wrapped)
        whole = not is_sharded(wrapped) and not learns_prompt(model)
        return (
            whole
            and bool(active_adapters(model))
            and not base_is_rewritten(model)
            and hasattr(unwrap(model), "generation_config")
        )

    @torch.no_grad()
    def read(self) -> dict[str, Float[Tensor, "L K"]]:
        """Mean z of what it writes now, by its base (``own_base``) and, less that, by itself (``own_gap``); {} if it
        writes nothing.

        The run's random state is left as it was, and the replies' seed is always the same.
        """
        if not self._leads:  # plain text, without a BOS: nothing to begin from
            return {}
        model: Any = self._trainer.model
        replies = self._sampled(model)
        ids_BT = pad_sequence([torch.tensor(lead + new) for lead, new in replies], batch_first=True)
        where = torch.arange(ids_BT.shape[1])
        there_BT = torch.stack([where < len(lead) + len(new) for lead, new in replies])
        written_BT = there_BT & torch.stack([where >= len(lead) for lead, _ in replies])
        if not written_BT.any():
            return {}

        def mean() -> Tensor:
            z_LBTK = z_of(model, self._vectors, ids_BT, there_BT)
            return torch.stack([z_BTK[written_BT].mean(0) for z_BTK in z_LBTK])

        own = mean()
        with without_adapters(model):
            base = mean()
        return {"own_base": base, "own_gap": own - base}

    def _sampled(self, model: Any) -> list[tuple[list[int], list[int]]]:
        """Leads, and what was written after each."""
        device, ends = input_device(model), self._ends(model)
        pad = ends[0] if ends else 0
        prompts = [torch.tensor(lead).flip(0) for lead in self._leads]
        ids = pad_sequence(prompts, batch_first=True, padding_value=pad).flip(1).to(device)
        there = pad_sequence([torch.ones_like(one) for one in prompts], batch_first=True).flip(1).to(device)
        devices = list({weight.device for weight in model.parameters() if weight.device.type == device.type})
        kept = [] if device.type == "cpu" else devices  # seeding seeds all of them
        with torch.random.fork_rng(devices=kept, device_type="cuda" if not kept else device.type), evaluating(model):
            torch.manual_seed(0)
            out = model.generate(
                input_ids=ids, attention_mask=there, do_sample=True, max_new_tokens=TOKENS, pad_token_id=pad
            )
        replies = [list(takewhile(lambda token: token not in ends, row)) for row in out[:, ids.shape[1] :].tolist()]
        return list(zip(self._leads, replies, strict=True))

    def _ends(self, model: Any) -> list[int]:
        stated: Any = model.generation_config.eos_token_id
        stated = stated if isinstance(stated, list) else [stated]
        return [one for one in (*stated, cast(Any, self._tokenizer).eos_token_id) if one is not None]
