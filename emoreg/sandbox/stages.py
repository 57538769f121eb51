"""The console of a program that takes minutes: a line for each stage, with its progress."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


class Stages:
    """Numbered stages, one after the other."""

    def __init__(self, console: Console):
        self._console, self._number = console, 0

    @contextmanager
    def stage(self, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """A stage while the context is open; gives what is told how many of ``total`` steps are done.

        On a terminal a bar moves; elsewhere one line is written when the stage is through.
        """
        self._number += 1
        name = f"{self._number}. {what}"
        if not self._console.is_terminal:
            began = time.monotonic()
            yield lambda done: None
            self._console.print(f"{name} ({time.monotonic() - began:.0f} s)", highlight=False)
            return
        columns = (TextColumn("{task.description:<48}"), BarColumn(20), TimeElapsedColumn())
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(name, total=total)
            yield lambda done: progress.update(task, completed=done)
            progress.update(task, total=1, completed=1)
