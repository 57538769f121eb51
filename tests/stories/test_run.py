"""A run comes to its plan, each text once and none banned, also when it was killed anywhere on the way."""

import json
from pathlib import Path

import pytest

from emoreg.corpus import read_corpus, read_texts
from emoreg.corpus.rules import banned_words
from emoreg.corpus.shipped import Emotion
from emoreg.stories import Item, Sampling, Settings, Transformers, plan, write
from tests import tiny
from tests.stories.fakes import LONG, UNFELT, Says

ORGANISM = Settings("organism", min_tokens=15, sampling=Sampling(max_tokens=60))
TINY = Settings("tiny", min_tokens=50, sampling=Sampling(max_tokens=400))
OTHER = Emotion("other", 0.0, 0.0, ("breath*", "problem"))
ITEMS = [Item(topic, n, emotion) for n in range(2) for topic in ("a map", "a bus") for emotion in (UNFELT, OTHER)]


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def by_item(path: Path) -> dict[tuple, str]:
    found = {(r.get("emotion"), r["topic"], r["number"]): r["text"] for r in records(path)}
    assert len(found) == len(records(path)), "an item stands in the file twice"
    return found


@pytest.fixture(scope="module")
def whole(speaker, tmp_path_factory):
    """A run that nothing breaks off: its file and outcome."""
    path = tmp_path_factory.mktemp("whole") / "stories.jsonl"
    backend = Transformers(*speaker, ORGANISM.sampling, batch_size=4)
    return path, write(path, ITEMS, backend, speaker[1], ORGANISM, attempts=20)


class TestWithARealModel:
    def test_the_plan_is_complete_and_nothing_banned(self, whole):
        path, outcome = whole
        assert set(by_item(path)) == {item.key for item in ITEMS}
        assert (outcome.found, outcome.kept, outcome.missing) == (0, 8, {})
        assert outcome.refused["banned word"] > 0, "the test would pass without a filter"
        for emotion in (UNFELT, OTHER):
            own = [record["text"] for record in records(path) if record["emotion"] == emotion.emotion]
            assert banned_words(" ".join(own), emotion.banned) == []

    def test_extraction_reads_it(self, whole):
        corpus = read_corpus(whole[0], group_field="topic")
        assert {(text.emotion, text.group) for text in corpus} == {(i.emotion.emotion, i.topic) for i in ITEMS}

    @pytest.mark.parametrize("share", [0.1, 0.5, 0.97])
    def test_killed_anywhere_it_ends_with_the_same_texts(self, whole, speaker, tmp_path, share):
        path, content = tmp_path / "stories.jsonl", whole[0].read_bytes()
        path.write_bytes(content[: int(share * len(content))])
        backend = Transformers(*speaker, ORGANISM.sampling, batch_size=3)
        outcome = write(path, ITEMS, backend, speaker[1], ORGANISM, attempts=20)
        assert by_item(path) == by_item(whole[0])
        assert outcome.found == content[: int(share * len(content))].count(b"\n")
        assert outcome.found + outcome.kept == len(ITEMS)

    def test_a_random_model_without_a_chat_template(self, tmp_path):
        model, tokenizer = tiny.llama(max_position_embeddings=1024), tiny.tokenizer()
        tokenizer.chat_template = None
        settings = Settings("tiny", min_tokens=8, sampling=Sampling(max_tokens=16))
        items = plan(["calm", "desperate"], topics=2, per_topic=1)
        path = tmp_path / "stories.jsonl"
        outcome = write(path, items, Transformers(model, tokenizer, settings.sampling), tokenizer, settings)
        assert outcome.kept + sum(outcome.missing.values()) == len(items)
        assert len(by_item(path)) == outcome.kept > 0


class TestKilledAtAnyByte:
    ITEMS = plan(["calm", "desperate"], topics=3, per_topic=2)

    def run(self, path: Path, items=ITEMS, **settings) -> Says:
        tokenizer = tiny.tokenizer()
        says = Says(tokenizer, lambda prompt, seed: f"{LONG}: {seed} é…")
        write(path, items, says, tokenizer, Settings(**{"model": "tiny", "sampling": TINY.sampling} | settings))
        return says

    def test_the_file_is_byte_for_byte_the_unbroken_one(self, tmp_path):
        path = tmp_path / "stories.jsonl"
        self.run(path)
        content = path.read_bytes()
        for size in range(0, len(content), 89):
            path.write_bytes(content[:size])
            says = self.run(path)
            assert path.read_bytes() == content
            assert len(says.asked) == len(self.ITEMS) - content[:size].count(b"\n")

    def test_stopped_by_hand_it_has_whole_lines(self, tmp_path):
        path, tokenizer = tmp_path / "stories.jsonl", tiny.tokenizer()

        def say(prompt: str, seed: int) -> str:
            if path.read_text().count("\n") == 3:
                raise KeyboardInterrupt
            return f"{LONG}: {seed} é…"

        with pytest.raises(KeyboardInterrupt):
            write(path, self.ITEMS, Says(tokenizer, say), tokenizer, TINY)
        assert len(records(path)) == 3
        self.run(path)
        assert set(by_item(path)) == {item.key for item in self.ITEMS}

    def test_a_larger_plan_adds_to_a_file(self, tmp_path):
        path, more = tmp_path / "stories.jsonl", plan(["calm", "sad"], topics=4, per_topic=2)
        self.run(path)
        content = path.read_bytes()
        assert len(self.run(path, more).asked) == len(more) - 3 * 2
        assert path.read_bytes().startswith(content)
        assert set(by_item(path)) == {item.key for item in (*self.ITEMS, *more)}

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"model": "small"}, "line 1 was written with model 'tiny', and this run has 'small'; give the same model"),
            ({"seed": 1}, "with seed 0, and this run has 1"),
            ({"min_tokens": 60}, "with min_tokens 50, and this run has 60"),
            ({"sampling": Sampling(temperature=0.5, max_tokens=400)}, "with temperature 1.0, and this run has 0.5"),
        ],
    )
    def test_other_settings_are_refused(self, tmp_path, changed, said):
        path = tmp_path / "stories.jsonl"
        self.run(path)
        content = path.read_bytes()
        with pytest.raises(ValueError, match=said):
            self.run(path, **changed)
        assert path.read_bytes() == content

    @pytest.mark.parametrize("content", ['{"text": "my own"}\n', "notes, with no end of line", '{"a": 1}', "[1, 2]\n"])
    def test_another_file_is_refused_and_left_alone(self, tmp_path, content):
        path = tmp_path / "stories.jsonl"
        path.write_text(content)
        with pytest.raises(ValueError, match="line 1 was not written by this command; choose another --output"):
            self.run(path)
        assert path.read_text() == content

    def test_stories_and_dialogues_do_not_share_a_file(self, tmp_path):
        path = tmp_path / "stories.jsonl"
        self.run(path)
        with pytest.raises(ValueError, match="line 1 holds a story, and this run writes neutral dialogues"):
            self.run(path, plan(neutral=True, topics=1))

    def test_a_name_that_extraction_could_not_read(self, tmp_path):
        with pytest.raises(ValueError, match=r"must end in \.jsonl"):
            self.run(tmp_path / "stories.txt")


class TestWhatIsRefused:
    """With a backend that says what is to be refused."""

    ITEMS = plan(["calm"], topics=1, per_topic=3)

    def run(self, path: Path, say, items=ITEMS, attempts=3):
        says = Says(tiny.tokenizer(), say)
        return says, write(path, items, says, says.tokenizer, TINY, attempts=attempts)

    def test_it_is_asked_for_again_with_another_seed_and_then_given_up(self, tmp_path):
        says, outcome = self.run(tmp_path / "s.jsonl", lambda prompt, seed: f"{LONG}, calmly.")
        assert outcome.refused == {"banned word": 9}
        assert outcome.missing == {"calm": 3}
        assert len(set(says.asked)) == 9
        assert (tmp_path / "s.jsonl").read_text() == ""

    def test_duplicates_of_this_run_and_of_the_file(self, tmp_path):
        path = tmp_path / "s.jsonl"
        _, outcome = self.run(path, lambda prompt, seed: LONG)
        assert (outcome.kept, outcome.refused, outcome.missing) == (1, {"duplicate": 6}, {"calm": 2})
        _, outcome = self.run(path, lambda prompt, seed: LONG, attempts=1)
        assert (outcome.found, outcome.kept, outcome.refused) == (1, 0, {"duplicate": 2})

    def test_short_ones_by_the_models_tokens(self, tmp_path):
        for length, kept in [(49, 0), (50, 1)]:
            path = tmp_path / f"{length}.jsonl"
            _, outcome = self.run(path, lambda prompt, seed, length=length: "x" * length, self.ITEMS[:1])
            assert outcome.kept == kept

    def test_the_first_paragraph_of_its_length_is_the_story(self, tmp_path):
        path = tmp_path / "s.jsonl"
        said = f"<think>\nCalm, so...\n</think>\n\n**The Jar**\n\n{LONG},\nas ever.\n\nExercise: {LONG}, calmly."
        _, outcome = self.run(path, lambda prompt, seed: said, self.ITEMS[:1])
        assert outcome.kept == 1
        assert records(path)[0]["text"] == f"{LONG}, as ever."

    def test_dialogues_that_are_none_or_name_an_emotion(self, tmp_path):
        path, items = tmp_path / "n.jsonl", plan(neutral=True, topics=1, per_topic=1)
        good = "Human: When does the shop open?\n\nAssistant: It opens at nine, and on Sundays it stays shut."
        answers = iter([LONG, good.replace("shop", "angry shop"), f"Sure!\n\n{good}\n"])
        _, outcome = self.run(path, lambda prompt, seed: next(answers), items)
        assert outcome.refused == {"no dialogue": 1, "banned word": 1}
        assert "emotion" not in records(path)[0]
        assert read_texts(path) == [good]

    def test_more_tokens_than_a_text_can_have(self):
        with pytest.raises(ValueError, match="min_tokens must be at most max_tokens, 40, got 50"):
            Settings("tiny", sampling=Sampling(max_tokens=40))
