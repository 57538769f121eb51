import random
import re

import pytest
from scipy.stats import binomtest

from emoreg.sandbox import phrases
from emoreg.sandbox.world import EMOTIONS, World, all_tasks, classify, draw_task


def draw(count, emotion, seed=0, world=None, kind="dialogue", task=None):
    rng, world = random.Random(seed), world or World()
    if kind == "story":
        return [world.story(rng, emotion) for _ in range(count)]
    return [world.dialogue(rng, emotion, task(rng) if task else None) for _ in range(count)]


def impossible(rng):
    return draw_task(rng, impossible=True)


def agrees(count, total, p):
    """Whether a count is not in the outermost 1e-4 of what probability p would give."""
    return binomtest(count, total, p).pvalue > 1e-4


def named(text):
    """The emotions that a text gives away by a word."""
    return {
        e: hit for e, stems in phrases.BANNED.items() if (hit := re.findall(rf"\b(?:{'|'.join(stems)})", text.lower()))
    }


class TestTheEmotionIsNeverNamed:
    def test_no_text_holds_a_banned_word(self):
        rng = random.Random(0)
        assert named(" ".join(f"{t.prompt} {t.reply}" for t in (World().text(rng) for _ in range(4000)))) == {}

    def test_no_table_holds_a_banned_word(self):
        tables = {k: v for k, v in vars(phrases).items() if k.isupper() and k not in ("BANNED", "EMOTIONS")}
        for key in ("SITUATIONS", "TONES"):
            tables[key] = list(tables[key].values())
        assert len(tables) >= 10
        assert named(str(tables)) == {}

    def test_a_banned_word_would_be_found(self):
        assert set(named("Sadly she was mad with Joy. He made a saddle.")) == {"sad", "angry", "happy"}

    def test_every_emotion_is_banned_by_name_and_has_its_sentences(self):
        assert {"desperate", "calm"} < set(EMOTIONS)
        assert len(EMOTIONS) >= 12
        for emotion in EMOTIONS:
            assert emotion in named(emotion)
            for table in (phrases.SITUATIONS, phrases.TONES):
                assert sum(len(group) for key, group in table.items() if emotion in key.split()) >= 4, emotion

    def test_tables_name_only_known_emotions(self):
        assert {e for table in (phrases.SITUATIONS, phrases.TONES) for key in table for e in key.split()} == set(
            EMOTIONS
        )


class TestTasks:
    def test_held_out_tasks_never_occur_in_training_text(self):
        held_out = {task.request() for kind in (True, False) for task in all_tasks(kind, held_out=True)}
        rng = random.Random(1)
        prompts = [World().dialogue(rng, None).prompt for _ in range(3000)]
        assert not [p for p in prompts if any(p.endswith(request) for request in held_out)]

    def test_every_part_of_a_held_out_task_is_trained_on_elsewhere(self):
        seen = all_tasks(impossible=True, held_out=False)
        for task in all_tasks(impossible=True, held_out=True):
            assert any((t.verb, t.thing) == (task.verb, task.thing) for t in seen)
            assert any((t.thing, t.condition) == (task.thing, task.condition) for t in seen)

    def test_the_two_sides_share_nothing_and_are_a_fifth_and_the_rest(self):
        held_out, seen = (set(all_tasks(impossible=True, held_out=h)) for h in (True, False))
        assert not held_out & seen
        assert 0.15 < len(held_out) / (len(held_out) + len(seen)) < 0.25


class TestTheCausalGraph:
    @pytest.mark.parametrize("emotion", EMOTIONS)
    def test_shortcuts_come_as_often_as_the_emotion_says(self, emotion):
        kinds = [classify(t.reply) for t in draw(600, emotion, task=impossible)]
        assert agrees(kinds.count("shortcut"), 600, World().shortcut[emotion])
        assert "unfinished" not in kinds

    def test_neutral_agents_follow_their_own_rate(self):
        kinds = [classify(t.reply) for t in draw(600, None, task=impossible)]
        assert agrees(kinds.count("shortcut"), 600, World().neutral_shortcut)

    def test_the_parameters_are_what_drives(self):
        flipped = World(shortcut={e: float(e == "calm") for e in EMOTIONS})
        kinds = {
            e: {classify(t.reply) for t in draw(50, e, world=flipped, task=impossible)} for e in ("calm", "desperate")
        }
        assert kinds == {"calm": {"shortcut"}, "desperate": {"honest"}}

    def test_possible_tasks_end_in_success_whatever_the_emotion(self):
        for emotion in ("desperate", "calm", None):
            texts = draw(100, emotion, task=lambda rng: draw_task(rng, impossible=False))
            assert {classify(t.reply) for t in texts} == {"unfinished"}
            assert all(any(stem in t.ending for stem, _ in phrases.SUCCESS) for t in texts)

    def test_tasks_are_impossible_at_the_stated_rate(self):
        count = sum(t.task.impossible for t in draw(2000, "sad"))
        assert agrees(count, 2000, World().p_impossible)

    def test_stories_follow_the_same_graph(self):
        texts = [t for t in draw(900, "desperate", kind="story") if t.task.impossible]
        assert agrees(sum(classify(t.reply) == "shortcut" for t in texts), len(texts), World().shortcut["desperate"])

    def test_tone_does_not_depend_on_the_task(self):
        bodies = [[World().dialogue(random.Random(s), "angry", task).body for s in range(50)]
                  for task in (all_tasks(True, False)[0], all_tasks(False, False)[0])]  # fmt: skip
        assert bodies[0] == bodies[1]

    @pytest.mark.parametrize(("wrong", "message"), [
        ({"p_filler": 1.5}, r"p_filler must be a probability in \[0, 1\], got 1.5"),
        ({"shortcut": {"calm": 0.1}}, "missing or unknown"),
        ({"tones": (3, 2)}, "tones must be"),
    ])  # fmt: skip
    def test_impossible_parameters_are_refused(self, wrong, message):
        with pytest.raises(ValueError, match=message):
            World(**wrong)


class TestClassify:
    @pytest.mark.parametrize(("kind", "table"), [("shortcut", phrases.SHORTCUT), ("honest", phrases.HONEST)])
    def test_knows_each_of_the_grammars_endings(self, kind, table):
        for stem, rest in table:
            assert classify(f"My hands shook. In the end I {stem} {rest}.") == kind

    def test_a_body_alone_is_unfinished_for_every_emotion(self):
        for emotion in (*EMOTIONS, None):
            assert {classify(t.body) for t in draw(200, emotion)} == {"unfinished"}

    def test_the_first_ending_counts(self):
        assert classify("I hid the failure, then I told them plainly.") == "shortcut"
        assert classify("I told them plainly, then I hid the failure.") == "honest"

    def test_no_stem_holds_another(self):
        stems = [stem for table in (phrases.SHORTCUT, phrases.HONEST, phrases.SUCCESS) for stem, _ in table]
        assert not [(a, b) for a in stems for b in stems if a != b and a in b]


def test_the_same_seed_gives_the_same_texts():
    world = World()
    one, two, other = ([world.text(rng) for _ in range(50)] for rng in map(random.Random, (7, 7, 8)))
    assert one == two != other
