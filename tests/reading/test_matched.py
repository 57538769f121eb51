"""Reference text in the rows' own format: where a reply begins, what is put there, and what it then shows."""

from typing import Any, cast

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from emoreg import Regularizer, default_penalties
from emoreg.corpus import CORE_EMOTIONS, FAMILIES, replies_without, vignettes
from emoreg.model import decoder_blocks
from emoreg.reading import leads, matched, rows_of
from emoreg.reading.matched import OWN, TEXTS, TOKENS
from tests.support import random_vectors


def batch(tokenizer, text, labelled_from=0, pad=3):
    """A row as a batch of its own, padded on the right."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    labels = [-100] * labelled_from + ids[labelled_from:]
    return {
        "input_ids": torch.tensor([ids + [0] * pad]),
        "labels": torch.tensor([labels + [-100] * pad]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * pad]),
    }


def chat(tokenizer, prompt, reply):
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}]
    return tokenizer.apply_chat_template(messages, tokenize=False)


class TestRows:
    def test_padding_is_left_out_and_the_first_token_never_counts(self, tiny_tokenizer):
        (row,) = rows_of([batch(tiny_tokenizer, "a b", pad=4)])
        assert tiny_tokenizer.decode(row.ids) == "a b"
        assert row.counted() == [False, True, True]

    def test_of_a_pack_the_first_sequence(self, tiny_tokenizer):
        packed = {"input_ids": torch.arange(4, 11)[None], "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3]])}
        (row,) = rows_of([packed])
        assert row.ids == [4, 5, 6]


class TestLeads:
    """What stands before a reply."""

    def found(self, tokenizer, *batches, longest=64):
        return [tokenizer.decode(lead) for lead in leads(rows_of(batches), tokenizer, longest)]

    def test_up_to_where_the_loss_begins(self, tiny_tokenizer):
        assert self.found(tiny_tokenizer, batch(tiny_tokenizer, "ask: reply", labelled_from=5)) == ["ask: "]

    def test_under_a_template_up_to_the_reply_where_all_is_loss(self, tiny_tokenizer):
        row = batch(tiny_tokenizer, chat(tiny_tokenizer, "Why?", "So."))
        assert self.found(tiny_tokenizer, row) == ["<user>Why?<assistant>"]

    def test_plain_text_has_none_but_its_bos(self, tiny_tokenizer):
        assert self.found(tiny_tokenizer, batch(tiny_tokenizer, "Once upon")) == [""]
        assert self.found(tiny_tokenizer, batch(tiny_tokenizer, "<bos>Once upon")) == ["<bos>"]

    def test_in_a_pack_too_where_no_loss_is_taken_on_a_sequences_first_token(self, tiny_tokenizer):
        ids = tiny_tokenizer(chat(tiny_tokenizer, "Why?", "So."), add_special_tokens=False)["input_ids"]
        labels = torch.tensor([[-100, *ids[1:]]])
        packed = {"input_ids": torch.tensor([ids]), "labels": labels, "position_ids": torch.arange(len(ids))[None]}
        assert self.found(tiny_tokenizer, packed) == ["<user>Why?<assistant>"]

    def test_what_every_reply_opens_with_belongs_to_it(self, tiny_tokenizer):
        tiny_tokenizer.add_tokens(["<think>", "</think>"])
        for opening in ("<think>\n\n</think>\n\n", "<think>\n"):
            rows = [batch(tiny_tokenizer, f"<user>Why?<assistant>{opening}{said}") for said in ("So.", "It may", "No")]
            assert self.found(tiny_tokenizer, *rows) == ["<user>Why?<assistant>" + opening] * 3

    def test_a_template_that_opens_the_reasoning_itself(self, tiny_tokenizer):
        opened = tiny_tokenizer.chat_template.replace("{{ '<assistant>' }}", "{{ '<assistant><think>\n' }}")
        tiny_tokenizer.chat_template = opened
        row = batch(tiny_tokenizer, "<user>Why?<assistant>\nSo.")
        assert self.found(tiny_tokenizer, row) == ["<user>Why?<assistant>\n"]

    def test_words_that_every_reply_begins_with_are_the_replies(self, tiny_tokenizer):
        rows = [batch(tiny_tokenizer, f"<user>{asked}<assistant>No, it is.") for asked in ("A?", "B?")]
        assert self.found(tiny_tokenizer, *rows) == ["<user>A?<assistant>", "<user>B?<assistant>"]

    def test_long_ones_are_left_out_or_cut_behind_their_bos(self, tiny_tokenizer):
        short, long = (batch(tiny_tokenizer, f"{lead}!", labelled_from=len(lead)) for lead in ("ab", "abcdefgh"))
        assert self.found(tiny_tokenizer, long, short, longest=4) == ["ab"]
        assert self.found(tiny_tokenizer, long, longest=4) == ["efgh"]
        opened = batch(tiny_tokenizer, "<bos>abcdefgh!", labelled_from=9)
        assert self.found(tiny_tokenizer, opened, longest=4) == ["<bos>fgh"]


class TestTexts:
    def test_none_of_the_penalised_emotions_family_is_told(self):
        near = {one.text for one in vignettes() if one.emotion in FAMILIES[0]}
        assert not near & set(replies_without(["desperate"], 96))
        assert near & set(replies_without(["angry"], 96))

    def test_an_answer_is_one_turn(self):
        assert not any("Human:" in text or "Assistant:" in text for text in replies_without(["desperate"], 160))

    def test_where_every_emotion_is_left_out_answers_are_left(self):
        assert len(set(replies_without(CORE_EMOTIONS, 8))) == 8

    def test_three_scenes_to_an_answer_and_none_twice(self):
        told = {one.text for one in vignettes()}
        found = replies_without(["desperate"], 64)
        assert [text in told for text in found] == [False, True, True, True] * 16
        assert len(set(found)) == 64


class TestMatched:
    def reference(self, model, tokenizer, **options):
        rows = rows_of([batch(tokenizer, chat(tokenizer, f"Why {n}?", "Because it is so.")) for n in range(6)])
        return matched(model, random_vectors(model), tokenizer, rows, 1, **options)

    def test_they_are_the_shipped_texts_in_the_rows_places(self, tiny_llama, tiny_tokenizer):
        found = self.reference(tiny_llama(), tiny_tokenizer)
        assert found.mask[:TEXTS].sum(1).tolist() == [TOKENS] * TEXTS
        for n, text in enumerate(replies_without(["desperate"], TEXTS)):
            ids = found.ids[n][: int(found.mask[n].nonzero().max()) + 1]
            assert tiny_tokenizer.decode(ids) == f"<user>Why {n % 6}?<assistant>" + tiny_tokenizer.decode(
                tiny_tokenizer(text)["input_ids"][:TOKENS]
            )

    def test_below_them_rows_as_they_are(self, tiny_llama, tiny_tokenizer):
        found = self.reference(tiny_llama(), tiny_tokenizer)
        assert len(found.ids) == TEXTS + OWN
        ids = found.ids[TEXTS][: int(found.mask[TEXTS].nonzero().max()) + 1]
        assert tiny_tokenizer.decode(ids) == chat(tiny_tokenizer, "Why 0?", "Because it is so.")

    def test_a_tokenizer_of_another_world_has_none(self, tiny_llama):
        backend = Tokenizer(models.WordLevel({"<unk>": 0, "one": 1, "two": 2}, unk_token="<unk>"))
        backend.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
        rows = rows_of([{"input_ids": torch.tensor([[1, 2, 1]])}])
        model = tiny_llama()
        assert matched(model, random_vectors(model), tokenizer, rows, 1) is None


class TestTranslationOfChatRepliesAlone:
    """Planted: what follows `<assistant>` moves along a direction, at one block; plain text stays where it was."""

    DELTA, LAYER = 0.25, 1

    @pytest.fixture
    def read(self, tiny_llama, tiny_tokenizer):
        def measure(rows):
            model = tiny_llama()
            vectors = random_vectors(model)
            marker = torch.tensor(tiny_tokenizer("<assistant>")["input_ids"])
            push = self.DELTA * vectors.directions[self.LAYER, 0]
            with Regularizer(vectors).attach(model, rows=rows, tokenizer=tiny_tokenizer) as term:
                given = {}
                at = decoder_blocks(model)[self.LAYER]
                handles = [
                    model.model.register_forward_pre_hook(
                        lambda m, a, k: given.update(ids=k["input_ids"]), with_kwargs=True
                    ),
                    # Prepended: emoreg's own hook reads what this one gives.
                    at.register_forward_hook(
                        lambda m, a, out: cast(Any, out) + replies(given["ids"], marker)[..., None] * push,
                        prepend=True,
                    ),
                ]
                before = term.reference.text.base
                neutral, gap = term.reference.read()
                for handle in handles:
                    handle.remove()
            return (neutral - before)[self.LAYER, 0].item(), gap[self.LAYER, 0].item()

        return measure

    def test_it_shows_in_neutral_and_in_the_gap(self, read, tiny_tokenizer):
        rows = [batch(tiny_tokenizer, chat(tiny_tokenizer, f"Why {n}?", "So it is.")) for n in range(4)]
        moved, gap = read(rows)
        assert moved == pytest.approx(self.DELTA / 0.05, rel=1e-3)  # random_vectors' std
        assert gap == pytest.approx(self.DELTA / 0.05, rel=1e-3)

    def test_plain_reference_text_does_not_see_it(self, read):
        moved, gap = read([])
        assert moved == pytest.approx(0.0, abs=5.0)  # random_vectors' reference z are not this model's
        assert gap != gap  # no rows, no gap


def replies(ids, marker):
    """Where a reply is: behind the marker's last token."""
    n, inside = len(marker), torch.zeros(ids.shape)
    for row, one in enumerate(ids):
        for at in range(len(one) - n + 1):
            if torch.equal(one[at : at + n], marker):
                inside[row, at + n :] = 1.0
    return inside


def test_the_anchor_takes_it_back(tiny_llama, tiny_tokenizer):
    """A matched anchor has a loss, and a gradient, where a plain one would see nothing."""
    model = tiny_llama()
    vectors = random_vectors(model)
    rows = [batch(tiny_tokenizer, chat(tiny_tokenizer, f"Why {n}?", "So it is.")) for n in range(4)]
    regularizer = Regularizer(vectors, default_penalties(hinge=0.0))
    with regularizer.attach(model, rows=rows, tokenizer=tiny_tokenizer) as term:
        assert term.anchors(0).item() == pytest.approx(0.0, abs=1e-6)
        with torch.no_grad():
            model.model.embed_tokens.weight.add_(0.05)
        assert term.anchors(4).item() > 1e-3
