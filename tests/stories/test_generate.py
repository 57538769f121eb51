"""A text is a matter of its prompt and its seed alone; vLLM is called as it wants to be called."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch

from emoreg.sandbox import organism
from emoreg.stories import Sampling, Transformers, Vllm, plan
from emoreg.stories.prompts import tokens
from tests import tiny

SHORT = Sampling(max_tokens=24)


@pytest.fixture(scope="module")
def prompts(speaker) -> list[list[int]]:
    found = [tokens(speaker[1], item) for item in plan(["calm", "desperate", "sad"], topics=2, per_topic=1)]
    assert len(set(map(len, found))) > 2, "prompts of one length would not need padding"
    return found


def texts(backend, prompts, seeds=range(100, 106)) -> list[str]:
    found = dict(backend(prompts, list(seeds)[: len(prompts)]))
    return [found[n] for n in range(len(prompts))]


class TestTransformers:
    def test_a_text_does_not_depend_on_its_batch(self, speaker, prompts):
        whole = texts(Transformers(*speaker, SHORT, batch_size=6), prompts)
        assert texts(Transformers(*speaker, SHORT, batch_size=2), prompts) == whole
        assert texts(Transformers(*speaker, SHORT), prompts[4:], [104, 105]) == whole[4:]

    def test_another_seed_gives_another_text(self, speaker, prompts):
        backend = Transformers(*speaker, SHORT)
        assert len(set(texts(backend, [prompts[0]] * 4, [1, 2, 3, 1]))) == 3

    def test_it_samples_with_the_models_probabilities(self, speaker):
        """Against `generate`'s own sampling from the same prompt, by the first token's share among 600."""
        model, tokenizer = speaker
        ids = tokenizer("<|user|>Please fix the map.<|assistant|>")["input_ids"]
        sampling = Sampling(temperature=1.5, top_p=0.8, max_tokens=1)
        backend = Transformers(model, tokenizer, sampling, batch_size=600)
        ours = [text for _, text in backend([ids] * 600, range(600))]
        with torch.no_grad():
            p_V = torch.softmax(model(torch.tensor([ids])).logits[0, -1] / 1.5, -1)
        sorted_V, order_V = p_V.sort(descending=True)
        inside = order_V[(sorted_V.cumsum(0) - sorted_V) < 0.8]
        expected = {tokenizer.decode(n): (p_V[n] / p_V[inside].sum()).item() for n in inside.tolist()}
        assert set(ours) <= set(expected)
        assert len(expected) > 3
        for text, share in expected.items():
            assert ours.count(text) / 600 == pytest.approx(share, abs=4 * (share * (1 - share) / 600) ** 0.5)

    def test_the_model_is_left_as_it_was(self, prompts):
        model, tokenizer = organism.load()
        model.config.max_position_embeddings = 512
        model.train()
        before = torch.get_rng_state()
        texts(Transformers(model, tokenizer, SHORT), prompts[:1])
        assert model.training
        assert torch.equal(before, torch.get_rng_state())

    def test_batches_shrink_until_they_fit(self, speaker, prompts, monkeypatch):
        model, tokenizer = speaker
        whole, generate, sizes = texts(Transformers(*speaker, SHORT), prompts), model.generate, []

        def cramped(**given):
            sizes.append(len(given["input_ids"]))
            if sizes[-1] > 2:
                raise torch.OutOfMemoryError("out of memory")
            return generate(**given)

        monkeypatch.setattr(model, "generate", cramped)
        assert texts(Transformers(model, tokenizer, SHORT), prompts) == whole
        assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]

    def test_memory_that_does_not_suffice_for_one(self, speaker, prompts, monkeypatch):
        def full(**_):
            raise torch.OutOfMemoryError("out of memory")

        monkeypatch.setattr(speaker[0], "generate", full)
        with pytest.raises(ValueError, match=r"out of memory with a single text.*lower max_tokens"):
            texts(Transformers(*speaker, SHORT), prompts)

    def test_a_context_that_is_too_short(self):
        model, tokenizer = tiny.llama(), tiny.tokenizer()
        with pytest.raises(ValueError, match=r"prompt of 250 .* context of 256; lower max_tokens to 6 or less"):
            list(Transformers(model, tokenizer, Sampling(max_tokens=7))([[5] * 250], [0]))

    @pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.5}, {"max_tokens": 0}])
    def test_sampling_that_is_none(self, wrong):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Sampling(**wrong)


class TestVllm:
    """Against a stub, since vLLM is not installed where tests run: it takes those of vLLM's arguments that are used, by
    their names in vLLM, and fails on any other. No text of vLLM's own has been seen here."""

    @pytest.fixture
    def made(self, monkeypatch) -> list:
        made = []

        class LLM:
            def __init__(self, model: str, *, dtype: str, tensor_parallel_size: int) -> None:
                made.append((model, dtype, tensor_parallel_size))

            def generate(self, prompts, sampling_params, *, use_tqdm: bool):
                assert not use_tqdm
                assert [set(prompt) for prompt in prompts] == [{"prompt_token_ids"}] * len(sampling_params)
                written = [
                    f"{prompt['prompt_token_ids']} {how.seed}"
                    for prompt, how in zip(prompts, sampling_params, strict=True)
                ]
                made.append(sampling_params[0])
                return [SimpleNamespace(outputs=[SimpleNamespace(text=text)]) for text in written]

        class SamplingParams:
            def __init__(self, *, temperature: float, top_p: float, max_tokens: int, seed: int) -> None:
                self.temperature, self.top_p, self.max_tokens, self.seed = temperature, top_p, max_tokens, seed

        stub = ModuleType("vllm")
        stub.LLM, stub.SamplingParams = LLM, SamplingParams
        monkeypatch.setitem(sys.modules, "vllm", stub)
        return made

    def test_each_request_has_its_tokens_and_its_seed(self, made):
        backend = Vllm("some/model", Sampling(0.7, 0.9, 50), dtype="bfloat16", gpus=2)
        assert texts(backend, [[1, 2], [3]], [7, 8]) == ["[1, 2] 7", "[3] 8"]
        assert made[0] == ("some/model", "bfloat16", 2)
        assert (made[1].temperature, made[1].top_p, made[1].max_tokens) == (0.7, 0.9, 50)

    def test_without_vllm(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "vllm", None)
        with pytest.raises(ValueError, match=r"needs vLLM .* take transformers"):
            Vllm("some/model", Sampling())
