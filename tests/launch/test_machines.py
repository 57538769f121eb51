"""Law 3 across machines: four ranks on two of them are one process on the same global batch."""

from pathlib import Path
from typing import Any

import pytest
import torch

from emoreg.statistics import BINS, HIGH, LOW
from tests import tiny
from tests.invariants.test_law_3 import apart
from tests.launch import law_3
from tests.launch.machines import ACCELERATE, ROOT, free_port, together, two_hosts

pytestmark = pytest.mark.slow
WORK = [ROOT / "tests/launch/law_3.py", "."]


def ranks(folder: Path) -> list[dict[str, Any]]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(4)]


def same_as_one_process(found: list[dict[str, Any]], folder: Path) -> None:
    one = law_3.train(folder / "one", per_device=8, accumulation=1)
    assert len(one["logs"]) == 3
    assert apart(one["weights"], tiny.llama().state_dict()) > 1e-3, "the run moves the weights"
    assert apart(found[0]["weights"], one["weights"]) <= 1e-5
    for ours, theirs in zip(found[0]["logs"], one["logs"], strict=True):
        assert ours.keys() == theirs.keys()
        for metric, value in theirs.items():
            margin = (HIGH - LOW) / BINS if metric.endswith("/p95") else 1e-6
            assert ours[metric] == pytest.approx(value, abs=margin, rel=1e-6), metric
    for other in found[1:]:
        assert apart(other["weights"], found[0]["weights"]) == 0.0
        assert other["logs"] == found[0]["logs"]


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
    same_as_one_process(found, tmp_path)


def test_two_machines_by_torchrun(tmp_path):
    """On one host, so that it runs everywhere."""
    machines = (["env", f"NODE_RANK={rank}", ROOT / "scripts/torchrun", *WORK] for rank in range(2))
    together(
        *machines, folder=tmp_path, NNODES="2", NPROC="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port())
    )  # fmt: skip
    same_as_one_process(ranks(tmp_path), tmp_path)
