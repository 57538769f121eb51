"""Reading corpora: what comes in, and what is said of a file that cannot be used."""

import json

import pytest

from emoreg.corpus import LabelledText, read_corpus, read_texts

RECORDS = [
    {"text": "It held.", "emotion": "calm", "scene": 1},
    {"text": "It broke.\u2028Again.", "emotion": "desperate", "scene": 1},
]


def write(path, records):
    text = (
        json.dumps(records) if path.suffix == ".json" else "\n".join(json.dumps(r, ensure_ascii=False) for r in records)
    )
    path.write_text(text + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["corpus.json", "corpus.jsonl"])
class TestReadCorpus:
    """`.json` and `.jsonl` hold the same records, and are told the same mistakes."""

    def test_texts_emotions_and_groups(self, tmp_path, name):
        path = write(tmp_path / name, RECORDS)
        assert read_corpus(path) == [
            LabelledText("It held.", "calm"),
            LabelledText("It broke.\u2028Again.", "desperate"),
        ]
        assert [item.group for item in read_corpus(str(path), group_field="scene")] == ["1", "1"]

    def test_other_field_names(self, tmp_path, name):
        path = write(tmp_path / name, [{"story": r["text"], "concept": r["emotion"]} for r in RECORDS])
        assert read_corpus(path, "story", "concept") == read_corpus(write(tmp_path / ("b" + name), RECORDS))

    def test_a_missing_file(self, tmp_path, name):
        with pytest.raises(ValueError, match=rf"^no such file: .*{name}$"):
            read_corpus(tmp_path / name)

    def test_an_empty_file(self, tmp_path, name):
        (tmp_path / name).write_text(" \n")
        with pytest.raises(ValueError, match=rf"{name} is empty; expected texts$"):
            read_corpus(tmp_path / name)

    def test_a_record_without_the_field(self, tmp_path, name):
        path = write(tmp_path / name, [RECORDS[0], {"text": "It broke.", "concept": "desperate"}])
        with pytest.raises(ValueError, match=r"record 2 has no field 'emotion'; it has 'text', 'concept'$"):
            read_corpus(path)
        with pytest.raises(ValueError, match=r"record 1 has no field 'topic'; it has 'text', 'emotion', 'scene'$"):
            read_corpus(path, group_field="topic")

    def test_a_record_that_is_no_object(self, tmp_path, name):
        with pytest.raises(ValueError, match=r"record 1: expected an object with a field 'text', got list$"):
            read_corpus(write(tmp_path / name, [["calm", "It held."]]))

    def test_a_text_that_is_empty_or_no_text(self, tmp_path, name):
        with pytest.raises(ValueError, match=r"record 1: expected a text in field 'text', got an empty str$"):
            read_corpus(write(tmp_path / name, [{"text": "", "emotion": "calm"}]))
        with pytest.raises(ValueError, match=r"record 1: expected a text in field 'emotion', got int$"):
            read_corpus(write(tmp_path / name, [{"text": "It held.", "emotion": 3}]))

    def test_one_emotion_only(self, tmp_path, name):
        with pytest.raises(
            ValueError, match=rf"{name}: the corpus has one emotion, 'calm'; a direction is a difference"
        ):
            read_corpus(write(tmp_path / name, RECORDS[:1] * 2))

    def test_broken_json(self, tmp_path, name):
        (tmp_path / name).write_text('{"text": ')
        with pytest.raises(ValueError, match=r"(corpus.json|line 1) is not valid JSON: "):
            read_corpus(tmp_path / name)


class TestReadTexts:
    """Neutral text comes as JSON, JSON lines, or plain text."""

    @pytest.mark.parametrize("records", [["One.", "Two."], [{"text": "One."}, {"text": "Two."}]])
    def test_json(self, tmp_path, records):
        assert read_texts(write(tmp_path / "a.json", records)) == ["One.", "Two."]
        assert read_texts(write(tmp_path / "a.jsonl", records)) == ["One.", "Two."]

    def test_plain_text_is_parted_by_blank_lines(self, tmp_path):
        (tmp_path / "a.txt").write_text("\nOne\nand a half.\n \n\n\nTwo.\n")
        assert read_texts(tmp_path / "a.txt") == ["One\nand a half.", "Two."]

    def test_mistakes(self, tmp_path):
        with pytest.raises(ValueError, match=r"^no such file: .*a.txt$"):
            read_texts(tmp_path / "a.txt")
        (tmp_path / "a.txt").write_text("\n\n")
        with pytest.raises(ValueError, match=r"a.txt is empty; expected texts$"):
            read_texts(tmp_path / "a.txt")
        with pytest.raises(ValueError, match=r"record 2 has no field 'text'; it has 'body'$"):
            read_texts(write(tmp_path / "a.jsonl", [{"text": "One."}, {"body": "Two."}]))
        with pytest.raises(ValueError, match=r"a.json: expected a list of records, got an empty list$"):
            read_texts(write(tmp_path / "a.json", []))

    def test_a_file_of_another_kind(self, tmp_path):
        (tmp_path / "a.csv").write_text("text\nOne.\n")
        with pytest.raises(
            ValueError, match=r"^cannot read .*a.csv: expected a .jsonl or .json file, or .txt for neutral"
        ):
            read_texts(tmp_path / "a.csv")

    def test_a_file_that_is_no_text(self, tmp_path):
        (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ValueError, match=r"a.json is not UTF-8 text \(invalid start byte at byte 0\)$"):
            read_texts(tmp_path / "a.json")
