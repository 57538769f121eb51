"""Labelled and neutral texts, from files."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from emoreg.corpus.chat import reply
from emoreg.corpus.labelled import LabelledText, check_corpus


def read_corpus(
    path: str | Path,
    text_field: str = "text",
    emotion_field: str = "emotion",
    group_field: str | None = None,
    trait_fields: Sequence[str] = (),
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> list[LabelledText]:
    """Read labelled texts from a ``.jsonl`` file (an object per line) or a ``.json`` file (a list of objects).

    A record may have ``messages`` (objects with ``role`` and ``content``, as datasets for chat models do) in place of
    the text: a conversation that ends in an assistant's message, written by the tokenizer's chat template, of which
    only that reply's own tokens are read (`emoreg.corpus.chat.reply`).

    Args:
        path: the file.
        text_field: which field of a record holds its text.
        emotion_field: which field names its emotion.
        group_field: which field names its group, if any does.
        trait_fields: which fields hold traits.
        tokenizer: the model's; only conversations need it.

    Raises:
        ValueError: for a missing, malformed or empty file, a record without a field, a conversation that the chat
            template refuses or rewrites, or a corpus with one emotion.
    """
    corpus = []
    for number, record in enumerate(_records(Path(path)), start=1):
        where = f"{path}: record {number}"
        text, emotion = _text(record, text_field, tokenizer, where), _string(record, emotion_field, where)
        group = None if group_field is None else str(_field(record, group_field, where))
        traits = {name: str(_field(record, name, where)) for name in trait_fields}
        corpus.append(LabelledText(text, emotion, group, traits))
    try:
        check_corpus(corpus)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return corpus


def read_texts(
    path: str | Path, text_field: str = "text", tokenizer: PreTrainedTokenizerBase | None = None
) -> list[str]:
    """Read texts without a label, such as neutral ones.

    From a ``.jsonl`` file (an object per line), a ``.json`` file (a list of strings or of objects) or a ``.txt`` file
    (texts parted by blank lines). Conversations and the tokenizer are as in `read_corpus`.

    Raises:
        ValueError: for a missing, malformed or empty file, a record without the field, or a conversation that the chat
            template refuses or rewrites.
    """
    path = Path(path)
    if path.suffix == ".txt":
        return [text.strip() for text in re.split(r"\n\s*\n", _content(path)) if text.strip()]
    texts = []
    for number, record in enumerate(_records(path), start=1):
        is_text = isinstance(record, str) and record.strip()
        texts.append(record if is_text else _text(record, text_field, tokenizer, f"{path}: record {number}"))
    return texts


def _content(path: Path) -> str:
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from None
    if not content.strip():
        raise ValueError(f"{path} is empty; expected texts")
    return content


def _records(path: Path) -> list[Any]:
    content = _content(path)
    if path.suffix == ".jsonl":
        lines = enumerate(content.split("\n"), start=1)
        return [_parse(line, f"{path}: line {number}") for number, line in lines if line.strip()]
    if path.suffix != ".json":
        raise ValueError(f"cannot read {path}: expected a .jsonl or .json file, or .txt for neutral texts")
    records = _parse(content, str(path))
    if not isinstance(records, list) or not records:
        raise ValueError(f"{path}: expected a list of records, got {_kind(records)}")
    return records


def _parse(content: str, where: str) -> Any:
    try:
        return json.loads(content)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where} is not valid JSON: {error}") from None


def _kind(value: Any) -> str:
    return f"an empty {type(value).__name__}" if value in ([], {}, "") else type(value).__name__


def _field(record: Any, name: str, where: str) -> Any:
    if not isinstance(record, dict):
        raise ValueError(f"{where}: expected an object with a field {name!r}, got {_kind(record)}")
    if name not in record:
        raise ValueError(f"{where} has no field {name!r}; it has {', '.join(map(repr, record)) or 'none'}")
    return record[name]


def _string(record: Any, name: str, where: str) -> str:
    value = _field(record, name, where)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: expected a text in field {name!r}, got {_kind(value)}")
    return value


def _text(record: Any, name: str, tokenizer: PreTrainedTokenizerBase | None, where: str) -> str:
    if not isinstance(record, dict) or name in record or "messages" not in record:
        return _string(record, name, where)
    if tokenizer is None:
        raise ValueError(f"{where} is a conversation; give the model's tokenizer too, whose chat template writes it")
    try:
        return reply(tokenizer, record["messages"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
