"""Law 3 across machines: four ranks on two of them are one process on the same global batch."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import law_3
from tests.launch.machines import ACCELERATE, ROOT, together, two_hosts
from tests.ports import free_port

pytestmark = pytest.mark.slow
WORK = [ROOT / "tests/launch/law_3.py", "."]


def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(4)]


def test_two_hosts_by_the_multinode_config(tmp_path):
    config = ROOT / "configs/accelerate/multinode.yaml"
    launch = [*ACCELERATE, "--config_file", config, "--num_processes", 4, "--mixed_precision", "no"]
    with two_hosts() as hosts:
        first, _ = hosts
        together(*(
            [*there, *launch, "--machine_rank", rank, "--main_process_ip", first, *WORK]
            for rank, there in enumerate(hosts.values())
        ), folder=tmp_path)  # fmt: skip
    found = ranks(tmp_path)
    assert [rank["host"] for rank in found] == ["10.77.0.1"] * 2 + ["10.77.0.2"] * 2
    law_3.assert_same(found, law_3.one("SFT", "full", tmp_path))


def test_two_machines_by_torchrun(tmp_path):
    """On one host, so that it runs everywhere."""
    machines = (["env", f"NODE_RANK={rank}", ROOT / "scripts/torchrun", *WORK] for rank in range(2))
    together(
        *machines, folder=tmp_path, NNODES="2", NPROC="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port())
    )  # fmt: skip
    law_3.assert_same(ranks(tmp_path), law_3.one("SFT", "full", tmp_path))
