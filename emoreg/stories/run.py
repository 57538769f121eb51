"""From a plan to a file of texts: what is missing is written, judged, asked for again where it was refused."""

import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from emoreg import checks
from emoreg.stories.accept import Accept
from emoreg.stories.generate import Backend
from emoreg.stories.output import Settings, line, resume
from emoreg.stories.prompts import Item, tokens


@dataclass
class Outcome:
    """What a run came to."""

    found: int = 0
    """Texts of the plan that were in the file already."""
    kept: int = 0
    """Texts added."""
    refused: Counter[str] = field(default_factory=Counter)
    """Texts refused, by reason."""
    missing: Counter[str] = field(default_factory=Counter)
    """Texts given up after the last attempt, by emotion; of neutral dialogues under ``neutral``."""


def write(
    path: str | Path,
    items: Sequence[Item],
    backend: Backend,
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    *,
    attempts: int = 4,
) -> Outcome:
    """Write what a file lacks of a plan, line by line: killed at any moment and called again, it goes on.

    Example:
        >>> settings = Settings("Qwen/Qwen3-0.6B")
        >>> backend = Transformers(model, tokenizer, settings.sampling)
        >>> write("stories.jsonl", plan(["desperate", "calm"], topics=10), backend, tokenizer, settings)

    Args:
        path: a JSONL file; what it has is left alone.
        items: the plan.
        backend: what writes, with ``settings.sampling``.
        tokenizer: the model's.
        settings: those of every text in the file.
        attempts: how often a text is asked for, each time with another seed, before it is given up.

    Raises:
        ValueError: for an empty plan, one of stories and dialogues together, or a file as `output.resume` refuses it.
    """
    checks.integer("attempts", attempts, 1)
    kinds = {item.emotion is None for item in items}
    checks.refuse_unless(len(kinds) == 1, "items", "stories or dialogues, one at least and not both", list(items))
    path = Path(path)
    there = resume(path, settings, neutral=kinds.pop())
    accept = Accept(tokenizer, settings.min_tokens, set(there.values()))
    waiting = deque((item, 0) for item in items if item.key not in there)
    outcome = Outcome(found=len(items) - len(waiting))
    with (
        tqdm(total=len(items), initial=outcome.found, unit=" texts") as bar,
        path.open("a", encoding="utf-8", newline="\n") as file,
    ):
        while waiting:
            window = [waiting.popleft() for _ in range(min(backend.window, len(waiting)))]
            prompts = [tokens(tokenizer, item) for item, _ in window]
            seeds = [seed_of(item, attempt, settings.seed) for item, attempt in window]
            for n, written in backend(prompts, seeds):
                item, attempt = window[n]
                text, reason = accept(item, written)
                if reason is None:
                    file.write(line(item, text, attempt, settings))
                    file.flush()
                    outcome.kept += 1
                    bar.update()
                    continue
                outcome.refused[reason] += 1
                bar.set_postfix(outcome.refused, refresh=False)
                if attempt + 1 < attempts:  # at once: of what is done when a run is killed, nothing is asked again
                    waiting.appendleft((item, attempt + 1))
                else:
                    outcome.missing[item.emotion.emotion if item.emotion else "neutral"] += 1
    return outcome


def seed_of(item: Item, attempt: int, seed: int) -> int:
    """What a text is sampled under: a matter of the item alone, whatever was written before it."""
    return random.Random(repr((seed, item.key, attempt))).getrandbits(48)
