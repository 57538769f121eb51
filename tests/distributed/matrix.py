"""How far two ranks are from one process, under every engine.

    python -m tests.distributed.matrix > docs/distributed.md        # some three minutes

prints the page that docs/distributed.md keeps, or fails if a cell does not hold. `test_engines.py` has most of them.
"""

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import torch

from tests.distributed import law_3
from tests.distributed.engines import ENGINES


def main() -> None:
    print(Path(__file__).with_name("matrix.md").read_text().strip())
    print(f"\n| trainer, way | {' | '.join(ENGINES)} |\n|---|{'---|' * len(ENGINES)}")
    for name, way in law_3.CELLS:
        cells = []
        with contextlib.redirect_stdout(sys.stderr):  # off the page: what trainers print
            one = law_3.one(name, way, Path(tempfile.mkdtemp()))
            for engine in ENGINES:
                found = law_3.assert_same(law_3.two(engine, name, way, Path(tempfile.mkdtemp())), one)
                cells.append(f"{found.weights:.0e} / {found.figures:.0e}")
        print(f"| {name}, {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        tempfile.tempdir = scratch
        main()
