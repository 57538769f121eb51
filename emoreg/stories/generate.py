"""Prompts in, texts out: what a backend is, and the one that is transformers' ``generate``.

A text depends on its prompt and its seed, not on what is written beside it, as far as a batch's shape leaves
the logits as they are. So a run that was killed and goes on writes what the unbroken one writes.

Shapes: B batch, T positions, V vocabulary.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from accelerate.utils import memory
from jaxtyping import Float, Int
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from emoreg import checks
from emoreg.model import evaluating, input_device

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sampling:
    """How texts are sampled."""

    temperature: float = 1.0
    top_p: float = 0.95
    max_tokens: int = 320
    """At which a text is cut off."""

    def __post_init__(self) -> None:
        checks.number("temperature", self.temperature)
        checks.number("top_p", self.top_p)
        checks.refuse_unless(self.temperature > 0, "temperature", "above 0", self.temperature)
        checks.refuse_unless(0 < self.top_p <= 1, "top_p", "above 0 and at most 1", self.top_p)
        checks.integer("max_tokens", self.max_tokens, 1)


@runtime_checkable
class Backend(Protocol):
    """What writes texts."""

    @property
    def window(self) -> int:
        """How many prompts to give it at once."""
        ...

    def __call__(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> Iterator[tuple[int, str]]:
        """Write a text to each prompt (token ids), under its seed: the prompt's number and the text, in any order."""
        ...


class Transformers:
    """transformers' ``generate``, in batches of prompts of about the same length, padded on the left.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
        sampling: temperature, nucleus and length.
        batch_size: texts written at a time; fewer from when memory does not suffice.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sampling: Sampling, batch_size: int = 32
    ) -> None:
        checks.integer("batch_size", batch_size, 1)
        self._model, self._tokenizer, self._sampling, self._batch_size = model, tokenizer, sampling, batch_size

    @property
    def window(self) -> int:
        """Some batches' worth, so that there is something to sort."""
        return 8 * self._batch_size

    def __call__(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> Iterator[tuple[int, str]]:
        """See `Backend`. Longest first, so that memory that does not suffice shows at once.

        Raises:
            ValueError: where a prompt and its text are longer than the model's context, or one alone needs more memory
                than there is.
        """
        self._check_context(max(map(len, prompts)))
        waiting = sorted(range(len(prompts)), key=lambda n: -len(prompts[n]))
        while waiting:
            batch = waiting[: self._batch_size]
            texts = self._write([prompts[n] for n in batch], [seeds[n] for n in batch])
            if texts is None:  # here the exception no longer holds what was on the device
                memory.clear_device_cache(garbage_collection=True)
                self._batch_size = len(batch) // 2
                logger.warning("out of memory; batches have at most %d texts from here on", self._batch_size)
                continue
            waiting = waiting[len(batch) :]
            yield from zip(batch, texts, strict=True)

    def _check_context(self, prompt: int) -> None:
        config = self._model.config.get_text_config(decoder=True)
        context, need = getattr(config, "max_position_embeddings", None), prompt + self._sampling.max_tokens
        if context is not None and need > context:
            raise ValueError(
                f"a prompt of {prompt} tokens and a text of {self._sampling.max_tokens} do not fit into the model's "
                f"context of {context}; lower max_tokens to {context - prompt} or less, or take another model"
            )

    @torch.no_grad()
    def _write(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> list[str] | None:
        longest, device = max(map(len, prompts)), input_device(self._model)
        pad = next(id for id in (self._tokenizer.pad_token_id, self._tokenizer.eos_token_id, 0) if id is not None)
        ids_BT = torch.tensor([[pad] * (longest - len(ids)) + list(ids) for ids in prompts], device=device)
        mask_BT = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in prompts], device=device)
        warpers = [TemperatureLogitsWarper(self._sampling.temperature), TopPLogitsWarper(self._sampling.top_p)]
        processors = LogitsProcessorList([*warpers, _OwnNoise(seeds)])
        # The greedy choice under noise is the sample; the model's own temperature, top-k and top-p are not for it.
        greedy: dict[str, Any] = {"do_sample": False, "temperature": 1.0, "top_p": 1.0, "top_k": 50, "num_beams": 1}
        try:
            with evaluating(self._model):
                written_BT = self._model.generate(  # pyright: ignore - the mixin's
                    input_ids=ids_BT, attention_mask=mask_BT, logits_processor=processors, pad_token_id=pad,
                    max_new_tokens=self._sampling.max_tokens, **greedy)  # fmt: skip
        except Exception as error:
            if not (isinstance(error, torch.OutOfMemoryError) or memory.should_reduce_batch_size(error)):
                raise
            if len(prompts) == 1:
                raise ValueError(
                    f"out of memory with a single text of {longest} + {self._sampling.max_tokens} tokens; lower "
                    "max_tokens, or load the model in a smaller dtype or over several devices (device_map)"
                ) from error
            return None
        return self._tokenizer.batch_decode(written_BT[:, longest:], skip_special_tokens=True)


class _OwnNoise(LogitsProcessor):
    """Sampling as the greedy choice under Gumbel noise, each row's from its own seed: batches may be cut anyhow."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds, self._generators = seeds, list[torch.Generator]()

    def __call__(self, input_ids: Int[Tensor, "B T"], scores: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
        self._generators = self._generators or [torch.Generator(scores.device).manual_seed(s) for s in self._seeds]
        drawn_BV = torch.empty_like(scores)
        for row_V, generator in zip(drawn_BV, self._generators, strict=True):
            row_V.exponential_(generator=generator)
        return scores - drawn_BV.clamp_min_(torch.finfo(drawn_BV.dtype).tiny).log()
