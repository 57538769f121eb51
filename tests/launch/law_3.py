"""One rank's part of a run for law 3, to be started by a launcher: `law_3.py FOLDER`. It leaves FOLDER/rank<n>.pt."""

import gc

gc.disable()  # as in on_cpu.py

import os
import socket
import sys
from pathlib import Path

import torch

from tests.distributed.law_3 import train

if __name__ == "__main__":
    folder, rank = Path(sys.argv[1]).absolute(), int(os.environ["RANK"])
    result = train(rank, folder / "run", "SFT", cut=(1, 2))
    torch.save(result | {"host": socket.gethostname()}, folder / f"rank{rank}.pt")
    os._exit(0)
