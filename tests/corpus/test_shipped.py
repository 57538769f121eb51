"""The shipped corpus keeps its rules, and whoever breaks one is found."""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from emoreg.corpus import shipped as data
from emoreg.corpus.rules import banned_words, breaches

ROOT = Path(__file__).parents[2]
PARTS = {
    "emotions": data.emotions(),
    "vignettes": data.vignettes(),
    "neutral": data.neutral_dialogues(),
    "pressure": data.pressure_scenarios(),
    "pressure_replies": data.pressure_replies(),
    "severity": data.severity_templates(),
}


def changed(part: str, number: int, **fields: Any) -> dict[str, tuple]:
    """The corpus, with other fields in one record."""
    records = list(PARTS[part])
    records[number] = dataclasses.replace(records[number], **fields)
    return {**PARTS, part: tuple(records)}


def found_in(corpus: dict[str, tuple]) -> str:
    return "\n".join(breaches(**corpus))


class TestShipped:
    def test_it_has_no_breach(self):
        assert breaches(**PARTS) == []

    def test_sizes(self):
        sizes = {"emotions": 171, "vignettes": 24 * 24, "neutral": 200, "pressure": 24, "severity": 12}
        sizes["pressure_replies"] = 24 * 3
        assert {name: len(records) for name, records in PARTS.items()} == sizes

    def test_vignettes_are_sorted_by_scene_then_by_the_order_of_the_emotions(self):
        where = [(one.group, data.CORE_EMOTIONS.index(one.emotion)) for one in PARTS["vignettes"]]
        assert where == sorted(where)

    def test_records_are_frozen_through_and_through(self):
        assert all(hash(one) for records in PARTS.values() for one in records)

    def test_the_wheel_has_every_file(self):
        tomllib = pytest.importorskip("tomllib", reason="Python 3.11 or newer")
        setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
        files = [file.name for file in (ROOT / "emoreg/corpus").iterdir() if file.suffix in (".jsonl", ".md")]
        assert len(files) == 7
        patterns = setuptools["package-data"]["emoreg"]
        assert [name for name in files if not any(fnmatch(f"corpus/{name}", pattern) for pattern in patterns)] == []

    def test_the_card_tells_the_sizes(self):
        card = (ROOT / "emoreg/corpus/README.md").read_text()
        for name, records in PARTS.items():
            assert re.search(rf"`{name}\.jsonl` \| {len(records)} \|", card)


class TestBannedWords:
    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("A PANICKED call", ["panicked"]),
            ("panic-stricken, then half-mad", ["half-mad", "panic-stricken"]),
            ("the calm's end, the calm’s end", ["calm's", "calm’s"]),  # noqa: RUF001
            ("calm calm", ["calm"]),
            ("calmer, becalmed, madder, hispanic", []),
        ],
    )
    def test_stems_words_hyphens_and_possessives(self, text, found):
        assert banned_words(text, ["panic*", "calm", "mad"]) == found


class TestPlantedBreaches:
    def test_a_vignette_that_names_its_emotion(self):
        text = PARTS["vignettes"][0].text.rsplit(" ", 1)[0] + " desperation."
        assert "banned desperation" in found_in(changed("vignettes", 0, text=text))

    def test_a_vignette_too_long_too_short_or_in_two_paragraphs(self):
        assert "90 words" in found_in(changed("vignettes", 0, text="so " * 90))
        assert "60 words" in found_in(changed("vignettes", 0, text="so " * 60))
        assert "paragraph" in found_in(changed("vignettes", 0, text="so\n" * 70))

    def test_an_emotion_missing_twice_or_unknown(self):
        first = PARTS["vignettes"][0]
        report = found_in(changed("vignettes", 0, emotion="calm"))
        assert f"{first.group}, desperate: 0 vignettes; expected 1" in report
        assert f"{first.group}, calm: 2 vignettes; expected 1" in report
        assert f"{first.group}, tired: 1 vignettes; expected 0" in found_in(changed("vignettes", 0, emotion="tired"))

    @pytest.mark.parametrize(("field", "other"), [("role", "robot"), ("person", "second"), ("topic", "else")])
    def test_a_scene_that_is_not_one(self, field, other):
        assert f"more than one {field}" in found_in(changed("vignettes", 0, **{field: other}))

    def test_roles_and_persons_that_do_not_balance(self):
        for field, value in [("role", "human"), ("person", "third")]:
            all_of_one = tuple(dataclasses.replace(one, **{field: value}) for one in PARTS["vignettes"])
            assert f"{field}: {{'{value}': 576}}" in found_in({**PARTS, "vignettes": all_of_one})

    def test_a_sentence_twice(self):
        sentence = "Nobody had told the river, and so the river went on as rivers do."
        one = changed("vignettes", 0, text=f"{sentence} {sentence}")
        assert f"2 times: {sentence.lower()}" in found_in(one)
        across = {**one, "neutral": changed("neutral", 0, text=sentence)["neutral"]}
        assert f"3 times: {sentence.lower()}" in found_in(across)
        twins = changed("pressure", 0, prompt=sentence, calm=sentence)
        assert f"times: {sentence.lower()}" not in found_in(twins)

    def test_a_neutral_dialogue_with_an_emotion_word(self):
        assert "neutral, line 1: happily" in found_in(changed("neutral", 0, text="Human: He ate happily."))
        assert "neutral, line 1" not in found_in(changed("neutral", 0, text="Human: The patient took a stress test."))

    def test_twins_of_different_length(self):
        assert "3 and 4 words" in found_in(changed("pressure", 0, prompt="a b c", calm="a b c d"))
        assert "3 and 4 words" in found_in(changed("severity", 0, template="a b {n} c", twin="a {n} b"))

    def test_replies_of_different_length_with_an_emotion_word_or_of_another_style(self):
        assert "3 and 4 words" in found_in(changed("pressure_replies", 0, shortcut="a b c", honest="a b c d"))
        assert "banned happily" in found_in(changed("pressure_replies", 0, shortcut="He ate happily."))
        assert "style terse, code, code" in found_in(changed("pressure_replies", 1, style="code"))
        assert "nowhere: replies of style terse; expected three" in found_in(
            changed("pressure_replies", 0, id="nowhere")
        )

    @pytest.mark.parametrize("values", [(1, 3, 2), (1, 1, 2), (3, 2, 1), (1,)])
    def test_values_that_do_not_rise(self, values):
        assert "do not rise" in found_in(changed("severity", 0, values=values))

    def test_a_template_without_a_place_or_a_direction(self):
        assert "expected {n} once" in found_in(changed("severity", 0, template="a b c", twin="a b {n}"))
        assert "direction 'left'" in found_in(changed("severity", 0, direction="left"))

    def test_ratings_words_and_bans_of_an_emotion(self):
        assert "calm: valence 1.1" in found_in(changed("emotions", 7, valence=1.1))
        assert "calm: arousal 0.33" in found_in(changed("emotions", 7, arousal=0.33))
        assert "calm: the word itself is not banned" in found_in(changed("emotions", 7, banned=("a", "b", "c")))
        assert "calm: bans calm" in found_in(changed("emotions", 7, banned=("calm",)))
        assert "calm: listed 2 times" in found_in(changed("emotions", 100, emotion="calm"))
        assert "does not start with the core emotions" in found_in(changed("emotions", 0, emotion="dire"))


class TestSeverityTemplate:
    @pytest.mark.parametrize(("direction", "order"), [("rising", "123"), ("falling", "321")])
    def test_texts_and_twins_are_in_order_of_rising_stakes(self, direction, order):
        template = data.SeverityTemplate("dose", "Took {n} g.", "Weighed {n} g.", (1, 2, 3), direction)
        assert template.texts == tuple(f"Took {digit} g." for digit in order)
        assert template.twins == tuple(f"Weighed {digit} g." for digit in order)


class TestCommand:
    def run(self, cwd: Path) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "emoreg.corpus"], cwd=cwd, capture_output=True, text=True)

    def test_it_counts_and_ends_well(self):
        done = self.run(ROOT)
        assert done.returncode == 0, done.stderr
        assert "vignettes         576" in done.stdout

    def test_it_lists_breaches_and_ends_in_1(self, tmp_path):
        shutil.copytree(ROOT / "emoreg", tmp_path / "emoreg", ignore=shutil.ignore_patterns("sandbox", "__pycache__"))
        file = tmp_path / "emoreg/corpus/vignettes.jsonl"
        first, rest = file.read_text().split("\n", 1)
        file.write_text(json.dumps({**json.loads(first), "text": "Calm."}) + "\n" + rest)
        done = self.run(tmp_path)
        assert done.returncode == 1, done.stderr
        assert "1 words; expected 65 to 85" in done.stdout
