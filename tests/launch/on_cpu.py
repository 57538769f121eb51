"""Runs a script with FSDP, which accelerate would silently leave out on a CPU: `on_cpu.py SCRIPT ARGUMENTS`."""

import runpy
import sys

from tests.distributed import engines

if __name__ == "__main__":
    engines.options("FSDP2")  # from here on accelerate sees what it would on GPUs
    del sys.argv[0]
    runpy.run_path(sys.argv[0], run_name="__main__")
