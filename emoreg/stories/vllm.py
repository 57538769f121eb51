"""Prompts in, texts out, by vLLM where it is installed."""

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

from emoreg.stories.generate import Sampling


class Vllm:
    """vLLM's ``LLM.generate``, each request with its seed; vLLM makes the batches.

    Args:
        model: hub id or folder.
        sampling: temperature, nucleus and length.
        dtype: ``auto``, ``float32``, ``bfloat16`` or ``float16``.
        gpus: over how many the model is spread.

    Raises:
        ValueError: where vLLM is not installed.
    """

    window = 1024

    def __init__(self, model: str, sampling: Sampling, dtype: str = "auto", gpus: int = 1) -> None:
        try:
            # By name: vLLM brings a torch of its own, so no extra of emoreg's asks for it.
            self._vllm: Any = importlib.import_module("vllm")
        except ImportError as error:
            raise ValueError(
                f"the backend vllm needs vLLM ({error}): install it (pip install vllm), or take transformers"
            ) from error
        self._sampling = sampling
        self._llm = self._vllm.LLM(model=model, dtype=dtype, tensor_parallel_size=gpus)

    def __call__(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> Iterator[tuple[int, str]]:
        """See `emoreg.stories.generate.Backend`."""
        how = {
            "temperature": self._sampling.temperature,
            "top_p": self._sampling.top_p,
            "max_tokens": self._sampling.max_tokens,
        }
        given = [{"prompt_token_ids": list(ids)} for ids in prompts]
        params = [self._vllm.SamplingParams(**how, seed=seed) for seed in seeds]
        outputs = self._llm.generate(given, params, use_tqdm=False)  # in the prompts' order
        yield from enumerate(output.outputs[0].text for output in outputs)
