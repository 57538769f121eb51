"""Real processes that talk over gloo, forked from the test's: a new interpreter would import longer than it trains."""

import functools
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from tests import tiny
from tests.ports import free_port


def run(world: int, work: Callable[..., object], folder: Path, *args: object, timeout: float = 120) -> list:
    """What ``work(rank, folder, *args)`` returns on each rank; raises with a rank's traceback if one fails."""
    _warm()
    port = free_port()
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_rank, args=(rank, world, port, folder, work, args)) for rank in range(world)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout)
    hung = [rank for rank, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        process.kill()
    failed = [text.read_text() for text in sorted(folder.glob("error*.txt"))]
    if hung or failed:
        raise RuntimeError(f"ranks {hung} hang; " + "\n".join(failed))
    return [torch.load(folder / f"result{rank}.pt", weights_only=True) for rank in range(world)]


@functools.cache
def _warm() -> None:
    """Have transformers make here, once, what each rank would make anew when it saves its model."""
    with tempfile.TemporaryDirectory() as folder:
        tiny.llama().save_pretrained(folder)


def _rank(rank: int, world: int, port: int, folder: Path, work: Callable[..., object], args: tuple) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    if world == 1:
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            del os.environ[name]
    _forget_accelerate()
    torch.set_num_threads(1)
    try:
        torch.save(work(rank, folder / f"rank{rank}", *args), folder / f"result{rank}.pt")
    except BaseException:
        (folder / f"error{rank}.txt").write_text(f"rank {rank}: {traceback.format_exc()}")
        os._exit(1)  # the others wait for this one: let them see that it is gone
    os._exit(0)


def _forget_accelerate() -> None:
    """The test's own process has been a world of one."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()
