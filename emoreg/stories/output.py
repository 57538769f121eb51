"""The file of texts: a JSON object per line, with the settings it was written under, and how a run goes on with it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from emoreg import checks
from emoreg.stories.generate import Sampling
from emoreg.stories.prompts import Item


@dataclass(frozen=True)
class Settings:
    """What all texts of a file have in common. How many there are, and on what machine they are written, may change."""

    model: str
    """Hub id or folder."""
    seed: int = 0
    min_tokens: int = 50
    """Below this a text is refused: extraction reads from the 50th token on."""
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        checks.text("model", self.model)
        checks.integer("seed", self.seed, 0)
        checks.integer("min_tokens", self.min_tokens, 1)
        most = self.sampling.max_tokens
        checks.refuse_unless(self.min_tokens <= most, "min_tokens", f"at most max_tokens, {most}", self.min_tokens)

    @property
    def fields(self) -> dict[str, Any]:
        """As each record has them."""
        own = {"model": self.model, "seed": self.seed, "min_tokens": self.min_tokens}
        return own | asdict(self.sampling)


def line(item: Item, text: str, attempt: int, settings: Settings) -> str:
    """A record, as it stands in the file."""
    label = {"emotion": item.emotion.emotion} if item.emotion else {}
    record = label | {"topic": item.topic, "number": item.number, "text": text, "attempt": attempt} | settings.fields
    return json.dumps(record, ensure_ascii=False) + "\n"


def resume(path: Path, settings: Settings, *, neutral: bool) -> dict[tuple[str | None, str, int], str]:
    """What a file has already, text by item; nothing if there is no file. A half-written last line is cut off.

    Raises:
        ValueError: for a name that does not end in ``.jsonl``; for a file that is no output of `emoreg stories`, or one
            of another kind or with other settings. It is left as it is.
    """
    if path.suffix != ".jsonl":
        raise ValueError(f"the output must end in .jsonl, as `emoreg extract` reads it; got {path}")
    if not path.exists():
        return {}
    found, whole = {}, 0
    with path.open("rb") as file:
        for number, raw in enumerate(file, start=1):
            where = f"{path}: line {number}"
            if not raw.endswith(b"\n"):
                start = b'{"topic": "' if neutral else b'{"emotion": "'
                if raw[: len(start)] != start[: len(raw)]:
                    raise ValueError(f"{where} was not written by this command; choose another --output")
                break
            record = _record(raw, where)
            _check(record, settings, neutral, where)
            found[record.get("emotion"), record["topic"], record["number"]] = record["text"]
            whole += len(raw)
    if whole < path.stat().st_size:
        with path.open("r+b") as file:
            file.truncate(whole)
    return found


def _record(raw: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(raw)
    except ValueError:  # of the JSON or of its encoding
        record = None
    if not isinstance(record, dict) or not {"topic", "number", "text", "model"} <= record.keys():
        raise ValueError(f"{where} was not written by this command; choose another --output")
    return record


def _check(record: dict[str, Any], settings: Settings, neutral: bool, where: str) -> None:
    if neutral == ("emotion" in record):
        kinds = ("a story", "neutral dialogues") if neutral else ("a neutral dialogue", "stories")
        raise ValueError(f"{where} holds {kinds[0]}, and this run writes {kinds[1]}; choose another --output")
    for name, value in settings.fields.items():
        if record.get(name) != value:
            raise ValueError(
                f"{where} was written with {name} {record.get(name)!r}, and this run has {value!r}; "
                f"give the same {name}, or choose another --output"
            )
