"""A text that is not read from its start."""

from typing import TypeVar

Own = TypeVar("Own", bound="Passage")


class Passage(str):
    """A text that is read from a character on; what comes before is context that the model sees.

    Example:
        >>> LabelledText(Passage("They ask for more time. No.", 24), "calm")
    """

    read_from: int

    def __new__(cls: type[Own], text: str, read_from: int) -> Own:
        """As a text, and from which character on it is read."""
        passage = str.__new__(cls, text)
        passage.read_from = read_from
        return passage

    def __getnewargs__(self) -> tuple[str, int]:  # pyright: ignore[reportIncompatibleMethodOverride] - for copies
        return str(self), self.read_from


def read_from(text: str) -> int:
    """The character from which on a text is read: 0, but for a `Passage`."""
    return text.read_from if isinstance(text, Passage) else 0
