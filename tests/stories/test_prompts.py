"""The plan is complete, and its prompts say what the stories must and must not do."""

from collections import Counter

import pytest

from emoreg.corpus.rules import banned_words
from emoreg.corpus.shipped import emotions
from emoreg.stories import TOPICS, plan
from emoreg.stories.prompts import tokens
from tests import tiny


class TestThePlan:
    def test_by_default_it_is_the_papers(self):
        items = plan()
        keys = {(item.emotion.emotion, item.topic, item.number) for item in items}
        assert len(items) == len(keys) == 171 * 100 * 12
        assert {emotion for emotion, _, _ in keys} == {emotion.emotion for emotion in emotions()}
        assert {topic for _, topic, _ in keys} == set(TOPICS)

    def test_picked_emotions_and_numbers(self):
        items = plan(["calm", "desperate"], topics=3, per_topic=2)
        each = Counter((item.emotion.emotion, item.topic) for item in items)
        assert each == {(emotion, topic): 2 for emotion in ("calm", "desperate") for topic in TOPICS[:3]}

    def test_cut_short_it_has_of_each_emotion_about_as_much(self):
        each = Counter(item.emotion.emotion for item in plan(topics=10, per_topic=2)[: 5 * 171 + 80])
        assert set(each.values()) == {5, 6}

    def test_neutral_dialogues_have_no_emotion(self):
        items = plan(neutral=True, topics=5, per_topic=3)
        assert len({item.key for item in items}) == 15
        assert {item.emotion for item in items} == {None}

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ({"names": ["desprate"]}, "did you mean 'desperate'?"),
            ({"names": ["calm", "calm"]}, "distinct"),
            ({"names": []}, "one or more names"),
            ({"topics": 101}, "topics must be at most 100, got 101"),
            ({"per_topic": 0}, "per_topic must be a whole number of at least 1"),
            ({"names": ["calm"], "neutral": True}, "left out of neutral dialogues"),
        ],
    )
    def test_what_cannot_be_planned_is_refused(self, wrong, said):
        with pytest.raises(ValueError, match=said.replace("?", r"\?")):
            plan(**wrong)


class TestThePrompts:
    def test_no_topic_needs_a_banned_word(self):
        stems = {stem for emotion in emotions() for stem in emotion.banned}
        assert banned_words(" ".join(TOPICS), stems) == []

    def test_a_story_names_its_emotion_topic_and_banned_words(self):
        (item,) = plan(["desperate"], topics=1, per_topic=1)
        for said in ("desperate", TOPICS[0], "desperat, despair, last-ditch"):
            assert said in item.request

    def test_twelve_on_one_topic_are_asked_for_in_twelve_ways(self):
        assert len({item.request for item in plan(["calm"], topics=1)}) == 12

    def test_a_dialogue_must_not_name_an_emotion(self):
        (item,) = plan(neutral=True, topics=1, per_topic=1)
        assert banned_words("Assistant: He was desperately angry.", item.banned) == ["angry", "desperately"]
        assert banned_words("Human: The patient had a stress test.", item.banned) == []

    def test_by_the_chat_template_if_there_is_one(self, tiny_tokenizer):
        (item,) = plan(["calm"], topics=1, per_topic=1)
        assert tiny_tokenizer.decode(tokens(tiny_tokenizer, item)) == f"<user>{item.request}<assistant>"

    def test_plainly_if_there_is_none(self):
        tokenizer = tiny.tokenizer()
        tokenizer.chat_template = None
        (item,) = plan(["calm"], topics=1, per_topic=1)
        prompt = tokenizer.decode(tokens(tokenizer, item))
        assert item.request in prompt
        assert prompt.endswith("The story:\n\n")
