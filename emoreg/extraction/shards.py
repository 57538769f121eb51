"""Sums on disk while texts stream by, so that a run that is killed goes on from them.

Each rank of each start writes one file of its own, over and over: what it has added up, and which batches that is. A
file is there whole or not at all, and is never changed by another start, so that no batch can count twice.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from emoreg import ranks
from emoreg.extraction.moments import Moments

SAVE_EVERY = 60.0
"""Seconds from one saving to the next, at least; more where saving itself takes long."""
_SHARE = 20  # of the time, at most one part in so many goes into saving
_SUFFIX = ".shard.safetensors"


class Shards:
    """The sums of one stream of texts, in a folder that all ranks see. Every rank must make one.

    Args:
        folder: where the files are; made if it is not there.
        stream: name of the stream.
        key: what the sums depend on, hashes or plain: a file of another key is refused.
        layers: L block numbers.

    Raises:
        ValueError: for a folder that cannot be used, or a file in it that is not whole or was made from something else.
    """

    def __init__(self, folder: str | Path, stream: str, key: Mapping[str, str], layers: Sequence[int]):
        self._folder, self._stream, self._layers = Path(folder), stream, tuple(layers)
        self._key = dict(key)
        self._own = self._folder / f"{stream}-{uuid4().hex}{_SUFFIX}"
        self._next = time.monotonic() + SAVE_EVERY
        found: dict[str, list[int]] = {}
        with ranks.together():
            if ranks.rank() == 0:
                found = self._look()
        if ranks.world() > 1:  # a rank that looked for itself might see what another has just begun
            found = json.loads(ranks.gather(json.dumps(found))[0])
        self._found = [self._folder / name for name in found]
        self.done = {number for batches in found.values() for number in batches}
        """Numbers of the batches that files of earlier starts hold."""

    def save(self, result: Callable[[], Moments], batches: Sequence[int]) -> None:
        """Write what has been added up of some batches, if it is time to."""
        begun = time.monotonic()
        if begun >= self._next:
            self._write(result(), batches)
            ended = time.monotonic()
            self._next = ended + max(SAVE_EVERY, _SHARE * (ended - begun))

    def close(self, result: Callable[[], Moments], batches: Sequence[int]) -> None:
        """Write what is left: what follows may take long."""
        if batches:
            self._write(result(), batches)

    def earlier(self) -> Iterator[Moments]:
        """What earlier starts added up: on the first rank alone, so that it counts once."""
        for path in self._found if ranks.rank() == 0 else ():
            with _opened(path) as file:
                names = set(file.keys())
                count, sums = file.get_tensor("count"), file.get_tensor("sums")
                products = file.get_tensor("products") if "products" in names else None
            yield Moments(self._layers, count, sums, products)

    def remove(self) -> None:
        """Delete every file of this stream, half-written ones too. Call it when all ranks have their result."""
        if ranks.rank() == 0:
            for path in self._folder.glob(f"*{self._stream}-*{_SUFFIX}*"):
                path.unlink(missing_ok=True)

    def _write(self, moments: Moments, batches: Sequence[int]) -> None:
        tensors = {"count": moments.count, "sums": moments.sums}
        if moments.products is not None:
            tensors["products"] = moments.products
        temporary = self._own.with_name(f".{self._own.name}.half")
        save_file(tensors, temporary, metadata={"batches": json.dumps(list(batches)), **self._key})
        os.replace(temporary, self._own)

    def _look(self) -> dict[str, list[int]]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            paths = sorted(self._folder.glob(f"{self._stream}-*{_SUFFIX}"))
        except OSError as error:
            raise ValueError(
                f"cannot use {self._folder} ({error.strerror}); choose another folder to resume from"
            ) from None
        found = {}
        for path in paths:
            with _opened(path) as file:
                metadata = file.metadata() or {}
            for name, value in self._key.items():
                if metadata.get(name) != value:
                    raise ValueError(
                        f"{path} was made with other {name}; go on with the same, or remove it or choose another folder"
                    )
            found[path.name] = json.loads(metadata["batches"])
        return found


def _opened(path: Path):
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no whole safetensors file ({error}); remove it to go on without") from None
