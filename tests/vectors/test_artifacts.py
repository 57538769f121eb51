"""Vectors in W&B artifacts."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb
from typer.testing import CliRunner
from wandb.proto import wandb_internal_pb2

from emoreg import EmotionVectors
from emoreg.cli import app
from emoreg.vectors import load_artifact, log_artifact, model_card, push_artifact
from emoreg.vectors.card import FILE
from tests.tracking import wandb_file


class TestArtifact:
    """A real offline run, read back from its file. Downloads need a server, and have a stand-in."""

    def test_an_offline_run_holds_it(self, shared, tmp_path):
        with wandb.init(project="p", dir=tmp_path, mode="offline") as run:
            log_artifact(shared, name="calm-vectors")
        artifact = logged(tmp_path)
        assert (artifact.name, artifact.type, artifact.run_id) == ("calm-vectors", "emotion-vectors", run.id)
        metadata = json.loads(artifact.metadata)
        assert metadata["fingerprint"] == shared.fingerprint()
        assert metadata["model"] == "lab/model-1b"
        assert metadata["emotions"] == list(shared.emotions)
        entries = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
        assert entries.keys() == {FILE, "README.md"}
        assert EmotionVectors.load(_named(entries[FILE])).fingerprint() == shared.fingerprint()
        assert entries["README.md"].read_text() == model_card(shared)

    def test_from_the_command_line_in_a_run_of_its_own(self, shared, tmp_path):
        shared.save("v")
        result = CliRunner().invoke(app, ["push", "v", "emotions/calm-vectors", "--wandb"])
        assert result.exit_code == 0, result.output
        assert wandb.run is None
        assert logged(tmp_path).name == "calm-vectors"

    @pytest.mark.parametrize("name", ["", "/calm", "a/b/c/d", "p/"])
    def test_a_name_that_is_none(self, shared, name):
        with pytest.raises(ValueError, match="name"):
            push_artifact(shared, name)

    def test_no_run(self, shared):
        with pytest.raises(ValueError, match="no W&B run is active; call wandb.init first"):
            log_artifact(shared)

    def test_a_name_that_wandb_does_not_take(self, shared, tmp_path):
        with wandb.init(project="p", dir=tmp_path, mode="offline"), pytest.raises(ValueError, match="name"):
            log_artifact(shared, name="a/b c")

    def test_reading_one_back(self, shared, tmp_path):
        shared.save(tmp_path / FILE)
        artifact = SimpleNamespace(download=lambda: str(tmp_path))
        assert load_artifact(artifact).fingerprint() == shared.fingerprint()
        run = SimpleNamespace(use_artifact={"me/p/calm:v0": artifact}.__getitem__)
        assert load_artifact("me/p/calm:v0", run).fingerprint() == shared.fingerprint()

    def test_an_offline_run_can_use_none(self, tmp_path):
        with (
            wandb.init(project="p", dir=tmp_path, mode="offline"),
            pytest.raises(ValueError, match="cannot get the artifact .*check its name and the connection"),
        ):
            load_artifact("me/p/calm:latest")


def logged(folder: Path):
    """The one artifact that an offline run below a folder holds."""
    wandb.teardown()
    (log,) = [file for file in folder.rglob("*.wandb") if not file.is_symlink()]
    found = [wandb_internal_pb2.Record.FromString(data) for data in wandb_file.records(log.read_bytes())]
    (artifact,) = [r.request.log_artifact.artifact for r in found if r.request.HasField("log_artifact")] or [
        r.artifact for r in found if r.WhichOneof("record_type") == "artifact"
    ]
    return artifact


def _named(path: Path) -> Path:
    """W&B's cache calls a file by its hash; a copy with the suffix that `load` wants."""
    copy = Path("staged.safetensors")
    copy.write_bytes(path.read_bytes())
    return copy
