"""Vectors on the Hub, in W&B and on a card: what goes up comes down, and one line says why not."""

import base64
import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import wandb
import yaml
from huggingface_hub import constants
from typer.testing import CliRunner
from wandb.proto import wandb_internal_pb2

from emoreg import EmotionVectors
from emoreg.cli import app
from emoreg.vectors.publishing import FILE, load_artifact, log_artifact, model_card, pull_from_hub, push_to_hub
from tests.support import random_vectors
from tests.tracking import wandb_file

COMMIT = "c" * 40
VERDICT = {"calm": {"layers": [1, 2], "why": "held-out AUC of 0.93"}, "<sad>": {"layers": [], "why": "words"}}


@pytest.fixture
def vectors(tiny_llama) -> EmotionVectors:
    vectors = random_vectors(tiny_llama())
    provenance = dataclasses.replace(vectors.provenance, model="lab/model-1b", counts={"calm": 9, "neutral": 40})
    return dataclasses.replace(vectors, provenance=provenance, validation={"verdict": VERDICT})


class TestCard:
    """A README that the Hub can read, with what a reader must know."""

    def test_front_matter(self, vectors):
        _, head, body = model_card(vectors, "me/calm").split("---\n", 2)
        assert yaml.safe_load(head) == {
            "library_name": "emoreg",
            "tags": ["emoreg", "activation-steering", "interpretability"],
            "base_model": "lab/model-1b",
        }
        for part in (
            "desperate, calm, sad",
            "0, 1, 2, 3",
            "calm 9, neutral 40",
            "| calm | 1, 2 | held-out AUC of 0.93 |",
            "emoreg.vectors/2",
        ):
            assert part in body
        assert 'pull_from_hub("me/calm")' in body
        assert vectors.fingerprint() in body

    def test_a_local_model_is_no_base_model_of_the_hub(self, vectors):
        provenance = dataclasses.replace(vectors.provenance, model="/home/me/model")
        card = model_card(dataclasses.replace(vectors, provenance=provenance, validation=None))
        assert "base_model" not in card
        assert "Nobody has validated them" in card

    def test_names_that_would_break_it(self, vectors):
        odd = dataclasses.replace(vectors, emotions=("a|b", "c\n---\nd", "<script>"))
        card = model_card(odd)
        assert card.count("\n---\n") == 1
        assert "| a b |" in card
        assert "<script>" not in card
        assert "<sad>" not in card


class Hub(BaseHTTPRequestHandler):
    """The few addresses of the Hub that an upload and a download ask for. Large files go the way of Git LFS."""

    files: dict[str, bytes]
    blobs: dict[str, bytes]
    asked: list[str]

    def do_POST(self):
        self.asked.append(self.path)
        lines = self.body().decode().splitlines()
        if self.path == "/api/repos/create":
            name = json.loads(lines[0])
            self.answer({"url": f"{constants.ENDPOINT}/{name['organization']}/{name['name']}", "id": "me/calm"})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            sent = json.loads(lines[0])["files"]
            modes = [{"path": f["path"], "uploadMode": "lfs" if f["path"] == FILE else "regular"} for f in sent]
            self.answer({"files": [mode | {"shouldIgnore": False} for mode in modes]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(lines[0])["objects"]
            upload = {o["oid"]: {"upload": {"href": f"{constants.ENDPOINT}/lfs/{o['oid']}"}} for o in objects}
            self.answer({"objects": [o | {"actions": upload[o["oid"]]} for o in objects], "transfer": "basic"})
        elif "/commit/" in self.path:
            for line in map(json.loads, lines):
                value = line["value"]
                if line["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.files[value["path"]] = self.blobs[value["oid"]]
            self.answer({"commitUrl": f"{constants.ENDPOINT}/me/calm/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.send_error(404)

    def do_PUT(self):
        content = self.body()
        self.blobs[hashlib.sha256(content).hexdigest()] = content
        self.answer({})

    def do_GET(self):
        self.asked.append(self.path)
        content = self.files.get(self.path.split("/")[-1]) if "/resolve/" in self.path else None
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.answer(content)

    do_HEAD = do_GET  # noqa: N815

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, content: dict | bytes) -> None:
        sent = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(sent)))
        self.send_header("ETag", f'"{hashlib.sha256(sent).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)

    def log_message(self, format, *args):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[type[Hub]]:
    class Own(Hub):
        files, blobs, asked = {}, {}, []

    server = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    huggingface_hub.close_session()  # one that was made offline stays so
    yield Own
    server.shutdown()
    server.server_close()
    huggingface_hub.close_session()


class TestHub:
    """Against a server on this machine, by the Hub's own client."""

    def test_what_is_pushed_can_be_pulled(self, vectors, hub):
        url = push_to_hub(vectors, "me/calm", token="hf_x")
        assert url.endswith(f"/me/calm/commit/{COMMIT}")
        assert hub.files.keys() == {"README.md", FILE}
        assert hub.files["README.md"].decode() == model_card(vectors, "me/calm")
        assert sum("/commit/" in path for path in hub.asked) == 1  # both files, or neither
        pulled = pull_from_hub("me/calm", "v1", token="hf_x")
        assert pulled.fingerprint() == vectors.fingerprint()
        assert pulled.provenance == vectors.provenance
        assert pulled.validation == vectors.validation
        assert any("/resolve/v1/" in path for path in hub.asked)

    def test_from_the_command_line(self, vectors, hub):
        vectors.save("v")
        result = CliRunner().invoke(app, ["push", "v.safetensors", "me/calm"])
        assert result.exit_code == 0, result.output
        assert f"/me/calm/commit/{COMMIT}" in result.output
        assert FILE in hub.files

    def test_a_damaged_file_is_refused(self, vectors, hub):
        push_to_hub(vectors, "me/calm", token="hf_x")
        hub.files[FILE] = hub.files[FILE][:-9]
        with pytest.raises(ValueError, match="is no whole safetensors file"):
            pull_from_hub("me/calm", token="hf_x")

    def test_nothing_there(self, hub):
        with pytest.raises(ValueError, match=f"cannot get {FILE} of me/calm at main .*404"):
            pull_from_hub("me/calm", token="hf_x")

    def test_no_server(self, vectors, hub, monkeypatch):
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(ValueError, match="cannot push to me/calm .*check the name, the connection"):
            push_to_hub(vectors, "me/calm", token="hf_x")

    def test_offline(self, vectors):
        with pytest.raises(ValueError, match="cannot push to me/calm .*offline"):
            push_to_hub(vectors, "me/calm", token="hf_x")

    def test_an_id_that_cannot_be(self, vectors, hub):
        with pytest.raises(ValueError, match="cannot get .*Repo id must"):
            pull_from_hub("me/calm/down", token="hf_x")
        with pytest.raises(ValueError, match="repo_id must be the name of a repository"):
            push_to_hub(vectors, "")


class TestArtifact:
    """A real offline run, read back from its file. Downloads need a server, and have a stand-in."""

    def test_an_offline_run_holds_it(self, vectors, tmp_path):
        with wandb.init(project="p", dir=tmp_path, mode="offline") as run:
            log_artifact(vectors, name="calm-vectors")
        wandb.teardown()
        (log,) = [file for file in tmp_path.rglob("*.wandb") if not file.is_symlink()]
        found = [wandb_internal_pb2.Record.FromString(data) for data in wandb_file.records(log.read_bytes())]
        (artifact,) = [r.request.log_artifact.artifact for r in found if r.request.HasField("log_artifact")] or [
            r.artifact for r in found if r.WhichOneof("record_type") == "artifact"
        ]
        assert (artifact.name, artifact.type, artifact.run_id) == ("calm-vectors", "emotion-vectors", run.id)
        metadata = json.loads(artifact.metadata)
        assert metadata["fingerprint"] == vectors.fingerprint()
        assert metadata["model"] == "lab/model-1b"
        assert metadata["emotions"] == list(vectors.emotions)
        entries = {entry.path: Path(entry.local_path) for entry in artifact.manifest.contents}
        assert entries.keys() == {FILE, "README.md"}
        assert EmotionVectors.load(_named(entries[FILE])).fingerprint() == vectors.fingerprint()
        assert entries["README.md"].read_text() == model_card(vectors)

    def test_no_run(self, vectors):
        with pytest.raises(ValueError, match="no W&B run is active; call wandb.init first"):
            log_artifact(vectors)

    def test_a_name_that_wandb_does_not_take(self, vectors, tmp_path):
        with wandb.init(project="p", dir=tmp_path, mode="offline"), pytest.raises(ValueError, match="name"):
            log_artifact(vectors, name="a/b c")

    def test_reading_one_back(self, vectors, tmp_path):
        vectors.save(tmp_path / FILE)
        artifact = SimpleNamespace(download=lambda: str(tmp_path))
        assert load_artifact(artifact).fingerprint() == vectors.fingerprint()
        run = SimpleNamespace(use_artifact={"me/p/calm:v0": artifact}.__getitem__)
        assert load_artifact("me/p/calm:v0", run).fingerprint() == vectors.fingerprint()

    def test_an_offline_run_can_use_none(self, tmp_path):
        with (
            wandb.init(project="p", dir=tmp_path, mode="offline"),
            pytest.raises(ValueError, match="cannot get the artifact .*check its name and the connection"),
        ):
            load_artifact("me/p/calm:latest")


def _named(path: Path) -> Path:
    """W&B's cache calls a file by its hash; a copy with the suffix that `load` wants."""
    copy = Path("staged.safetensors")
    copy.write_bytes(path.read_bytes())
    return copy
