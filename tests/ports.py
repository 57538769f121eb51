"""Ports for processes that meet on this machine."""

import os
import secrets
import socket

BELOW_THE_KERNELS = range(20_000, 32_000)
"""Those that it gives away by itself begin above."""


def free_port() -> int:
    """A port that is free now, and that no other worker of pytest-xdist picks meanwhile."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = BELOW_THE_KERNELS[worker :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]
    while True:
        port = secrets.choice(own)
        with socket.socket() as free:
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
