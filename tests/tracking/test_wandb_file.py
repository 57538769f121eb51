"""The reader of run files, against runs that wandb itself wrote."""

from pathlib import Path

import pytest
import wandb

from tests.tracking import wandb_file


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """A real offline run whose records are longer than a block and so come in parts."""
    run = wandb.init(project="test", mode="offline", dir=tmp_path, config={"rate": 0.1, "nested": {"depth": 4}})
    for step in range(5):
        row = {"loss": step / 2, "emotion/desperate/z": -step, "nested": {"deep": {"value": step}}}
        run.log(row | {"text": "x" * 40_000}, step=step)
    run.config.update({"late": [1, 2]})
    run.summary["verdict"] = "kept down"
    run.finish()
    wandb.teardown()
    (path,) = tmp_path.rglob("*.wandb")
    return path


class TestRead:
    def test_history_config_and_summary_come_back_as_logged(self, run_file: Path):
        run = wandb_file.read(run_file)
        assert run.column("loss") == [0, 0.5, 1, 1.5, 2]
        assert run.column("emotion/desperate/z") == [0, -1, -2, -3, -4]
        assert run.column("nested.deep.value") == [0, 1, 2, 3, 4]
        assert run.column("_step") == [0, 1, 2, 3, 4]
        assert run.column("text") == ["x" * 40_000] * 5
        assert run.config.items() >= {"rate": 0.1, "nested.depth": 4, "late": [1, 2]}.items()
        assert run.summary.items() >= {"loss": 2, "nested.deep.value": 4, "verdict": "kept down"}.items()

    def test_a_folder_stands_for_the_only_run_below_it(self, run_file: Path, tmp_path: Path):
        assert wandb_file.read(tmp_path) == wandb_file.read(run_file)
        with pytest.raises(ValueError, match=r"expected one \.wandb file below .*found 0"):
            wandb_file.read(run_file.parent / "files")

    def test_values_that_json_has_no_word_for_come_back(self, tmp_path: Path):
        with wandb.init(project="test", mode="offline", dir=tmp_path) as run:
            run.log({"loss": float("nan"), "norm": float("inf")})
        (row,) = wandb_file.read(tmp_path).history
        assert row["loss"] != row["loss"] or row["loss"] == "NaN"
        assert row["norm"] in (float("inf"), "Infinity")


class TestDamage:
    def test_a_flipped_bit_is_found(self, run_file: Path):
        log = bytearray(run_file.read_bytes())
        log[100_000] ^= 1
        with pytest.raises(ValueError, match="does not match its checksum"):
            list(wandb_file.records(bytes(log)))

    @pytest.mark.parametrize("length", [40_000, 7 + 3])
    def test_a_file_cut_short_is_found(self, run_file: Path, length: int):
        with pytest.raises(ValueError, match="cut short"):
            list(wandb_file.records(run_file.read_bytes()[:length]))

    @pytest.mark.parametrize("log", [b"", b"not a run", b"\x00" * 100])
    def test_another_file_is_refused(self, log: bytes):
        with pytest.raises(ValueError, match="no wandb run file"):
            list(wandb_file.records(log))
