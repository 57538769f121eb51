"""Extraction finds what was planted, agrees with the slow way, and leaves the model as it was."""

import gc
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import processors
from torch.utils._python_dispatch import TorchDispatchMode

from emoreg.corpus import LabelledText, Passage
from emoreg.extraction import MomentsFitter, extract
from emoreg.vectors import EmotionVectors
from tests.extraction.texts import MARKERS, corpus, neutral, plant, slow_extract

FIELDS = ("directions", "mean", "std", "residual_norm", "reference_z")


@pytest.fixture
def model(tiny_llama, tiny_tokenizer):
    model = tiny_llama()
    plant(model, tiny_tokenizer)
    return model


def run(model, tokenizer, texts=None, plain=None, **options):
    options = {"progress": False, "from_token": 20, "denoise_share": 0.0, "tokens_per_batch": 400} | options
    return extract(model, tokenizer, texts or corpus(), plain or neutral(), **options)


def assert_same(a: EmotionVectors, b: EmotionVectors, atol: float, fields=FIELDS):
    for name in fields:
        torch.testing.assert_close(
            getattr(a, name), getattr(b, name), rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


def add_bos(tokenizer):
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", tokenizer.bos_token_id)]
    )
    return tokenizer


class TestPlantedTruth:
    """Each marker's embedding got a direction of its own; less the mean over emotions, that is what must come out."""

    def expected(self, model, tokenizer):
        planted = plant(model, tokenizer, strength=2)  # well above what four blocks of random weights add of their own
        return torch.nn.functional.normalize(planted - planted.mean(0), dim=-1)

    def test_every_layer_finds_every_planted_direction(self, tiny_llama, tiny_tokenizer):
        model = tiny_llama()
        truth = self.expected(model, tiny_tokenizer)
        cosines = (run(model, tiny_tokenizer).directions * truth).sum(-1)
        assert cosines.min() >= 0.95, cosines

    def test_labels_at_random_find_none_of_them(self, tiny_llama, tiny_tokenizer):
        model = tiny_llama()
        truth = self.expected(model, tiny_tokenizer)
        labels = list(MARKERS)
        shuffled = [LabelledText(item.text, labels[n // 3 % 3]) for n, item in enumerate(corpus(9))]
        cosines = (run(model, tiny_tokenizer, shuffled).directions * truth).sum(-1)
        assert cosines.abs().max() < 0.8, cosines

    def test_an_emotion_that_shows_only_before_the_nth_token_is_not_found_and_one_from_there_on_is(
        self, tiny_llama, tiny_tokenizer
    ):
        model = tiny_llama()
        truth = self.expected(model, tiny_tokenizer)
        late = corpus(16, after=50)
        # The first fifty letters say the opposite of what follows.
        turned = dict(zip(MARKERS.values(), [*list(MARKERS.values())[1:], "!"], strict=True))
        texts = []
        for item in late:
            other = turned[MARKERS[item.emotion]]
            texts.append(LabelledText(item.text[0] + (other + item.text[1:3]) * 16 + item.text[49:], item.emotion))
        late_cosines = (run(model, tiny_tokenizer, texts, from_token=51).directions * truth).sum(-1)
        all_cosines = (run(model, tiny_tokenizer, texts, from_token=1).directions * truth).sum(-1)
        assert late_cosines.min() >= 0.95, late_cosines
        assert all_cosines.max() < 0.6, all_cosines


class TestAgreesWithTheSlowWay:
    """The same figures as `output_hidden_states`, one text at a time, with Python loops."""

    @pytest.mark.parametrize("from_token", [1, 20, 80])
    @pytest.mark.parametrize("with_bos", [False, True], ids=["no BOS", "BOS"])
    def test_all_layers_the_last_included(self, model, tiny_tokenizer, with_bos, from_token):
        tokenizer = add_bos(tiny_tokenizer) if with_bos else tiny_tokenizer
        texts, plain = corpus(3), neutral(5)
        vectors = run(
            model,
            tokenizer,
            texts,
            plain,
            from_token=from_token,
            tokens_per_batch=400,
            reference_texts=3,
            reference_tokens=30,
        )
        slow = slow_extract(
            model, texts, plain, lambda text: (tokenizer(text)["input_ids"], int(with_bos)), from_token, 3, 30
        )
        for name in FIELDS:
            np.testing.assert_allclose(getattr(vectors, name), slow[name], rtol=1e-5, atol=2e-6, err_msg=name)

    def test_a_text_read_from_a_character_on_has_what_comes_before_as_context(self, model, tiny_tokenizer):
        texts, start = corpus(3), 30  # one token per character, so the start is a token number too
        vectors = run(model, tiny_tokenizer, [replace(t, text=Passage(t.text, start)) for t in texts], from_token=1)
        slow = run(model, tiny_tokenizer, texts, from_token=start + 1)
        assert_same(vectors, slow, atol=1e-6)

    def test_some_layers_are_rows_of_all(self, model, tiny_tokenizer):
        some = run(model, tiny_tokenizer, layers=[2, 0])
        assert some.layers == (0, 2)
        assert_same(some, run(model, tiny_tokenizer).select(layers=[0, 2]), atol=0)

    def test_reference_texts_are_the_first_neutral_ones(self, model, tiny_tokenizer):
        plain = neutral(6)
        vectors = run(model, tiny_tokenizer, plain=plain, reference_texts=2, reference_tokens=15)
        assert vectors.reference_ids.tolist() == [ids[:15] for ids in tiny_tokenizer(plain[:2])["input_ids"]]
        assert vectors.reference_mask.tolist() == [[False] + [True] * 14] * 2

    def test_the_mean_z_of_all_neutral_tokens_is_zero(self, model, tiny_tokenizer):
        plain = ["x" + text[:20] for text in neutral(6)]  # of one length, so texts weigh as tokens do
        vectors = run(model, tiny_tokenizer, plain=plain)
        assert vectors.reference_z.sum((0, 1)).abs().max() < 1e-4


class TestInvariance:
    """How texts are padded, batched and ordered does not matter."""

    def test_padding_side_and_pad_token(self, model, tiny_tokenizer):
        right = run(model, tiny_tokenizer)
        tiny_tokenizer.padding_side = "left"
        left = run(model, tiny_tokenizer)
        assert tiny_tokenizer.padding_side == "left"
        tiny_tokenizer.pad_token = None
        without = run(model, tiny_tokenizer)
        assert tiny_tokenizer.pad_token is None
        assert_same(right, left, atol=0)
        assert_same(right, without, atol=0)

    @pytest.mark.parametrize("tokens_per_batch", [1, 300, 6400])
    def test_tokens_per_batch(self, model, tiny_tokenizer, tokens_per_batch):
        assert_same(
            run(model, tiny_tokenizer), run(model, tiny_tokenizer, tokens_per_batch=tokens_per_batch), atol=1e-6
        )

    def test_order_of_texts(self, model, tiny_tokenizer):
        texts, plain = corpus(), neutral()
        # The first text of each emotion stays in front, since that is the order of emotions.
        there = run(model, tiny_tokenizer, texts, plain)
        back = run(model, tiny_tokenizer, texts[:3] + texts[:2:-1], plain[::-1])
        assert_same(there, back, atol=1e-6, fields=("directions", "mean", "std", "residual_norm"))

    def test_the_first_position_is_not_read(self, tiny_llama, tiny_tokenizer):
        """An attention sink there, with BOS or without, changes neither directions nor calibration."""
        model = tiny_llama()
        plant(model, tiny_tokenizer)
        before = run(model, tiny_tokenizer, from_token=1)
        with torch.no_grad():  # no attention, so that what is at the first position can only be seen there
            for block in model.model.layers:
                block.self_attn.o_proj.weight.zero_()
            without = run(model, tiny_tokenizer, from_token=1)
            model.get_input_embeddings().weight[tiny_tokenizer.convert_tokens_to_ids("x")] *= 1000
        assert_same(without, run(model, tiny_tokenizer, from_token=1), atol=0)
        assert not torch.equal(before.directions, without.directions)


class TestEconomy:
    """One forward pass per text, no head, no block past the last one needed, no growing memory, no waiting."""

    def test_each_text_once_and_no_further_than_needed(self, model, tiny_tokenizer):
        rows = {0: 0, 3: 0}
        for layer in rows:
            model.model.layers[layer].register_forward_hook(
                lambda _m, _a, output, layer=layer: rows.update({layer: rows[layer] + len(output)})
            )
        model.lm_head.register_forward_pre_hook(lambda *_: pytest.fail("the head ran"))
        texts, plain = corpus(), neutral()
        run(model, tiny_tokenizer, texts, plain, layers=[0, 2], reference_texts=2)
        assert rows == {0: len(texts) + len(plain) + 2, 3: 0}

    def test_memory_does_not_grow_with_the_number_of_texts(self, model, tiny_tokenizer, monkeypatch):
        def peak(n: int) -> int:
            held = []
            update = MomentsFitter.update

            def watch(self, *args):
                update(self, *args)
                if args[0] < 3:  # looking is slow
                    return
                tensors = (o for o in gc.get_objects() if issubclass(type(o), torch.Tensor))
                held.append(sum(t.numel() for t in tensors if t.is_floating_point()))

            monkeypatch.setattr(MomentsFitter, "update", watch)
            run(model, tiny_tokenizer, corpus(n, 60, 60), neutral(3 * n, 60, 60), reference_texts=2)
            monkeypatch.setattr(MomentsFitter, "update", update)
            return max(held)

        peak(4)
        assert peak(12) == peak(4)

    def test_no_batch_waits_for_the_device(self, model, tiny_tokenizer):
        class Count(TorchDispatchMode):
            """Counts values brought to the host."""

            n = 0

            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                self.n += func is torch.ops.aten._local_scalar_dense.default
                return func(*args, **(kwargs or {}))

        def waits(n: int) -> int:
            with Count() as count:
                texts, plain = corpus(n, 60, 60), neutral(3 * n, 60, 60)
                run(model, tiny_tokenizer, texts, plain, reference_texts=2, tokens_per_batch=4 * 61)
            return count.n

        ids = torch.ones(4, 60, dtype=torch.long)
        with Count() as model_alone:
            model.model(input_ids=ids, attention_mask=ids, use_cache=False)
        batches = 2 * 3 * 4 // 4  # more of them, labelled and neutral
        assert waits(8) - waits(4) == batches * model_alone.n


class TestLeavesTheModelAlone:
    """Training flags, hooks and gradients are as before, also after an exception."""

    def flags(self, model):
        return [module.training for module in model.modules()]

    def hooks(self, model):
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())

    def test_flags_are_restored_one_by_one(self, model, tiny_tokenizer):
        model.train()
        model.model.layers[1].eval()
        seen = []
        model.model.layers[2].register_forward_hook(lambda module, *_: seen.append(module.training))
        before, hooks = self.flags(model), self.hooks(model)
        run(model, tiny_tokenizer)
        assert not any(seen)
        assert (self.flags(model), self.hooks(model)) == (before, hooks)
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_flags_and_hooks_are_restored_after_an_exception_inside_the_forward(self, model, tiny_tokenizer):
        model.train()
        calls = []

        def fail_at_last(*_):
            calls.append(1)
            if len(calls) == 3:
                raise RuntimeError("out of memory, say")

        model.model.layers[1].mlp.register_forward_hook(fail_at_last)
        before, hooks = self.flags(model), self.hooks(model)
        with pytest.raises(RuntimeError, match=r"out of memory"):
            run(model, tiny_tokenizer)
        assert (self.flags(model), self.hooks(model)) == (before, hooks)

    def test_dropout_is_off(self, tiny_llama, tiny_tokenizer):
        model = tiny_llama(attention_dropout=0.5)
        plant(model, tiny_tokenizer)
        model.train()
        assert_same(run(model, tiny_tokenizer), run(model, tiny_tokenizer), atol=0)


class TestWarnings:
    """One line each, with counts."""

    def test_short_texts_are_counted_once_and_read_whole(self, model, tiny_tokenizer, caplog):
        texts = [*corpus(), *(LabelledText(item.text[:15], item.emotion) for item in corpus(1))]
        with caplog.at_level(logging.WARNING):
            run(model, tiny_tokenizer, texts)
        assert [record.message for record in caplog.records] == [
            "3 of 27 texts have fewer than 20 tokens; all of theirs are read"
        ]

    def test_long_texts_are_cut_and_counted_once(self, tiny_llama, tiny_tokenizer, caplog):
        model = tiny_llama(max_position_embeddings=64)
        plant(model, tiny_tokenizer)
        texts = corpus(4, 60, 63) + corpus(2, 70, 80)
        with caplog.at_level(logging.WARNING):
            long = run(model, tiny_tokenizer, texts, neutral(4, 40, 50))
        assert [record.message for record in caplog.records] == [
            "6 of 18 texts are longer than the context (64 tokens) and were cut"
        ]
        cut = [LabelledText(item.text[:64], item.emotion) for item in texts]
        assert_same(long, run(model, tiny_tokenizer, cut, neutral(4, 40, 50)), atol=0)

    def test_a_clean_run_says_nothing(self, model, tiny_tokenizer, caplog, capsys):
        with caplog.at_level(logging.WARNING):
            run(model, tiny_tokenizer)
        assert not caplog.records
        assert capsys.readouterr() == ("", "")

    def test_there_is_a_progress_bar(self, model, tiny_tokenizer, capsys):
        run(model, tiny_tokenizer, progress=True)
        assert "34/34" in capsys.readouterr().err


class TestProvenance:
    """What the vectors were made from is in them."""

    def test_is_filled_in(self, model, tiny_tokenizer):
        model.config._name_or_path = "some/model"
        model.name_or_path = "some/model"
        provenance = run(model, tiny_tokenizer).provenance
        assert provenance.model == "some/model"
        assert provenance.counts == {"desperate": 8, "calm": 8, "sad": 8, "neutral": 10}
        assert provenance.method == "difference of means, 0% of neutral variance taken out"
        assert "from token 20 on" in provenance.token_rule

    def test_vectors_belong_to_their_model_and_survive_a_file(self, model, tiny_tokenizer, tmp_path):
        vectors = run(model, tiny_tokenizer)
        loaded = EmotionVectors.load(vectors.save(tmp_path / "vectors"))
        loaded.check(model)
        assert_same(vectors, loaded, atol=0)

    def test_the_corpus_hash_covers_labels_and_neutral_text(self, model, tiny_tokenizer):
        relabelled = [
            LabelledText(item.text, {"calm": "sad", "sad": "calm"}.get(item.emotion, item.emotion)) for item in corpus()
        ]
        hashes = {
            run(model, tiny_tokenizer, texts, plain).provenance.corpus_hash
            for texts, plain in ((corpus(), neutral()), (relabelled, neutral()), (corpus(), neutral(seed=5)))
        }
        assert len(hashes) == 3


class TestErrors:
    """A user's mistake is named, with what was expected."""

    def test_empty_corpus(self, model, tiny_tokenizer):
        with pytest.raises(ValueError, match=r"^the corpus is empty; expected texts of two emotions or more$"):
            extract(model, tiny_tokenizer, [], neutral())

    def test_one_emotion(self, model, tiny_tokenizer):
        with pytest.raises(ValueError, match=r"^the corpus has one emotion, 'calm'; a direction is a difference"):
            run(model, tiny_tokenizer, [item for item in corpus() if item.emotion == "calm"])

    def test_no_neutral_text(self, model, tiny_tokenizer):
        with pytest.raises(ValueError, match=r"^there is no neutral text; expected some to calibrate the readings on$"):
            extract(model, tiny_tokenizer, corpus(), [])

    def test_an_emotion_called_neutral(self, model, tiny_tokenizer):
        with pytest.raises(ValueError, match=r"^the corpus labels texts 'neutral'; give those as the neutral texts"):
            run(model, tiny_tokenizer, [*corpus(), LabelledText("abc", "neutral")])

    def test_emotions_with_the_same_texts(self, model, tiny_tokenizer):
        texts = [LabelledText(item.text, emotion) for item in corpus() for emotion in ("desperate", "calm")]
        with pytest.raises(
            ValueError,
            match=r"^the mean of 'desperate' coincides with the mean over emotions at layer 0, so it has no dir",
        ):
            run(model, tiny_tokenizer, texts, tokens_per_batch=300)

    def test_a_text_without_tokens(self, model, tiny_tokenizer):
        with pytest.raises(
            ValueError, match=r"^text '' has no token to read: it is empty, a single token without a BOS, or"
        ):
            run(model, tiny_tokenizer, [*corpus(), LabelledText("", "calm")])

    def test_a_text_that_is_read_from_behind_its_end(self, model, tiny_tokenizer):
        texts = [replace(t, text=Passage(t.text, 999)) for t in corpus(2)]
        with pytest.raises(ValueError, match="starts to be read behind its end"):
            run(model, tiny_tokenizer, texts)

    def test_layer_out_of_range(self, model, tiny_tokenizer):
        with pytest.raises(ValueError, match=r"^layer 4 is out of range: the model has 4 blocks, 0 to 3$"):
            run(model, tiny_tokenizer, layers=[1, 4])

    def test_another_models_tokenizer(self, tiny_llama, tiny_tokenizer):
        with pytest.raises(ValueError, match=r"but the model has 40 embeddings; use the model's own tokenizer$"):
            run(tiny_llama(vocab_size=40), tiny_tokenizer)

    def test_nan_in_a_weight_names_layer_and_parameter(self, model, tiny_tokenizer):
        with torch.no_grad():
            model.model.layers[2].mlp.down_proj.weight[3, 5] = torch.nan
        with pytest.raises(
            ValueError,
            match=r"^hidden states at layer 2 are not finite: parameter model\.layers\.2\.mlp\.down_proj\.weight holds",
        ):
            run(model, tiny_tokenizer)

    def test_overflow_without_a_bad_parameter_names_the_dtype(self, model, tiny_tokenizer):
        model.model.layers[1].register_forward_hook(lambda _m, _a, output: output * torch.inf)
        with pytest.raises(
            ValueError, match=r"^hidden states at layer 1 are not finite: its parameters are, so the forward"
        ):
            run(model, tiny_tokenizer)

    @pytest.mark.parametrize(
        ("option", "message"),
        [
            ({"from_token": 0}, "from_token counts from 1, got 0"),
            ({"tokens_per_batch": 0}, "tokens_per_batch must be a whole number of at least 1, got 0"),
            ({"reference_texts": 0}, "reference_texts must be a whole number of at least 1, got 0"),
            ({"reference_tokens": 1}, "reference_tokens must be a whole number of at least 2, got 1"),
        ],
    )
    def test_options(self, model, tiny_tokenizer, option, message):
        with pytest.raises(ValueError, match=f"^{message}$"):
            run(model, tiny_tokenizer, **option)
