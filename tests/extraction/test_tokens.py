"""Where texts are cut, and which of their tokens are read."""

import logging

import pytest

from emoreg.corpus import Passage
from emoreg.extraction import tokenise


@pytest.fixture
def cut(tiny_llama, tiny_tokenizer):
    """One token per letter, and no BOS."""
    return lambda *texts, **options: tokenise(tiny_llama(), tiny_tokenizer, texts, **options)


def test_the_first_position_is_never_read(cut):
    (text,) = cut("abcdef")
    assert (text.first, text.end, len(text)) == (1, 6, 6)


def test_from_a_token_on(cut):
    (text,) = cut("abcdef", from_token=4)
    assert text.first == 3


def test_a_passage_is_read_from_its_character_and_the_rule_counts_from_there(cut):
    assert [text.first for text in cut(Passage("abcdef", 2), "abcdef")] == [2, 1]
    assert cut(Passage("abcdef", 2), from_token=3)[0].first == 4


def test_shorter_texts_are_read_whole_and_counted(cut, caplog):
    with caplog.at_level(logging.WARNING):
        texts = cut("abc", "abcdef", Passage("abcdef", 4), from_token=4)
    assert [text.first for text in texts] == [1, 3, 4]
    assert caplog.messages == ["2 of 3 texts have fewer than 4 tokens; all of theirs are read"]


def test_tokens_count_from_one(cut):
    with pytest.raises(ValueError, match="^from_token counts from 1, got 0$"):
        cut("abc", from_token=0)
