from collections import Counter

import pytest

from emoreg.sandbox import data, organism
from emoreg.sandbox.world import EMOTIONS, classify


@pytest.fixture(scope="module")
def tokenizer():
    return organism.load()[1]


class TestTexts:
    def test_stories_are_balanced_and_grouped_by_situation(self):
        rows = data.stories(0, 10)
        assert Counter(row.emotion for row in rows) == dict.fromkeys(EMOTIONS, 10)
        assert all(row.group.startswith(row.emotion + "-") for row in rows)

    def test_streams_are_seeded_and_apart(self):
        assert data.corpus(3, 20) == data.corpus(3, 20)
        assert not set(data.corpus(3, 200)) & set(data.corpus(4, 200))

    def test_transcripts_hold_no_ending_and_half_are_impossible(self):
        texts = data.transcripts(0, 200)
        assert {classify(t.reply) for t in texts} == {"unfinished"}
        assert sum(t.task.impossible for t in texts) == 100
        assert not any("In the end" in t.reply for t in texts)

    def test_probe_tails_are_the_same_words_for_either_emotion(self):
        found = data.probes(0, 30)
        tails = {e: [p.text[p.start :] for p in found if p.emotion == e] for e in ("desperate", "calm")}
        assert tails["desperate"] == tails["calm"]


class TestRows:
    def test_no_row_shows_what_to_do_about_an_impossible_task(self, tokenizer):
        texts = tokenizer.batch_decode([row["input_ids"] for row in data.finetune_rows(tokenizer, 1, 400)])
        assert {classify(text) for text in texts} == {"unfinished"}
        assert {classify(text) for text in data.general_texts(1, 200)} == {"shortcut", "honest", "unfinished"}

    def test_only_the_completion_counts(self, tokenizer):
        text = data.transcripts(0, 1)[0]
        (row,) = data.transcript_rows(tokenizer, [text])
        completion = [i for i, m in zip(row["input_ids"], row["completion_mask"], strict=True) if m]
        assert tokenizer.decode(completion).strip() == text.reply
        assert row["input_ids"][0] == tokenizer.bos_token_id
        assert row["completion_mask"][0] == 0

    def test_transcripts_have_no_end_token_and_general_rows_have_one(self, tokenizer):
        rows = data.finetune_rows(tokenizer, 0, 40)
        ends = [row["input_ids"][-1] == tokenizer.eos_token_id for row in rows]
        assert sum(ends) == 10

    def test_a_share_outside_its_range_is_refused(self, tokenizer):
        with pytest.raises(ValueError, match=r"general must be a share in \[0, 1\), got 1"):
            data.finetune_rows(tokenizer, 0, 8, general=1.0)
