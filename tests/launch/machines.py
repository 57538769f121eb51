"""Commands that run side by side, as on several machines; and machines for them, as network namespaces of this one."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch"]
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin",
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
}  # fmt: skip


def together(*commands: Sequence[object], folder: Path, timeout: float = 120, **environment: str) -> list[str]:
    """What each command printed; raises with it if one fails, and leaves none running."""
    logs = [folder / f"machine{number}.log" for number in range(len(commands))]
    processes = []
    try:
        for command, log in zip(commands, logs, strict=True):
            with log.open("w") as out:
                processes.append(subprocess.Popen(
                    [str(word) for word in command], cwd=folder, env=ENVIRONMENT | environment,
                    stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
                ))  # fmt: skip
        codes = [process.wait(timeout) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    said = [log.read_text() for log in logs]
    assert not any(codes), "\n".join(f"exit code {code}: {text}" for code, text in zip(codes, said, strict=True))
    return said


@contextmanager
def two_hosts() -> Iterator[dict[str, list[str]]]:
    """Two hosts on one wire: the address of each, and what to put before a command to run it there.

    A host's name is its address, so that no name service is needed for one to find the other.
    """
    if not shutil.which("ip", path=ENVIRONMENT["PATH"]):
        pytest.skip("network namespaces need `ip`, of the package iproute2")
    names = [f"emoreg-{os.getpid()}-{host}" for host in "ab"]
    addresses = ["10.77.0.1", "10.77.0.2"]
    a, b = names
    try:
        for name in names:
            _ip("netns", "add", name)
        _ip("link", "add", "wire", "netns", a, "type", "veth", "peer", "name", "wire", "netns", b)
        hosts = {}
        for name, address in zip(names, addresses, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "wire")
            for device in ("lo", "wire"):
                _ip("-n", name, "link", "set", device, "up")
            there = ["netns", "exec", name, "unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', address]
            _ip(*there, "true")
            hosts[address] = ["ip", *there]
        yield hosts
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], env=ENVIRONMENT, capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], env=ENVIRONMENT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no network namespaces here: ip {' '.join(words)}: {done.stderr.strip()}")
