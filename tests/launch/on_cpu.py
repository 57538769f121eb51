"""Runs a script as an engine of `engines.ENGINES` takes it on a CPU: `on_cpu.py ENGINE SCRIPT ARGUMENTS`."""

import gc

gc.disable()  # libraries leave nothing to collect while they are imported, and it takes a second to see that

import os
import runpy
import sys

from tests.distributed import engines

if __name__ == "__main__":
    engines.options(sys.argv[1])
    del sys.argv[:2]
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.stdout.flush()
    os._exit(0)  # taking half a million objects apart takes another
