"""Runs a script as an engine of `engines.ENGINES` takes it on a CPU: `on_cpu.py ENGINE SCRIPT ARGUMENTS`."""

import runpy
import sys

from tests.distributed import engines

if __name__ == "__main__":
    engines.options(sys.argv[1])
    del sys.argv[:2]
    runpy.run_path(sys.argv[0], run_name="__main__")
