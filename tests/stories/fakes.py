"""Backends that say what a test wants, and a tokenizer's worth of help."""

from collections.abc import Callable, Iterator, Sequence

from transformers import PreTrainedTokenizerBase

from emoreg.corpus.shipped import Emotion

LONG = "The kettle went on and off again while she counted the coins on the table and put them back into the jar"
UNFELT = Emotion("unfelt", 0.0, 0.0, ("result*", "heart"))
"""Its banned words are among those that the sandbox's organism likes best."""


class Says:
    """A backend: ``say(prompt, seed)``, the prompt as text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, say: Callable[[str, int], str], window: int = 4) -> None:
        self.tokenizer, self.say, self.window = tokenizer, say, window
        self.asked: list[tuple[str, int]] = []

    def __call__(self, prompts: Sequence[Sequence[int]], seeds: Sequence[int]) -> Iterator[tuple[int, str]]:
        assert len(prompts) <= self.window
        for n, (ids, seed) in enumerate(zip(prompts, seeds, strict=True)):
            prompt = self.tokenizer.decode(ids)
            self.asked.append((prompt, seed))
            yield n, self.say(prompt, seed)
