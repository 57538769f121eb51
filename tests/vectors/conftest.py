"""Vectors to share, and a server on this machine that answers as the Hub does."""

import base64
import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from huggingface_hub import constants

from emoreg import EmotionVectors
from emoreg.vectors.card import FILE
from tests.support import random_vectors

COMMIT = "c" * 40
VERDICT = {"calm": {"layers": [1, 2], "why": "held-out AUC of 0.93"}, "<sad>": {"layers": [], "why": "words"}}


@pytest.fixture
def shared(tiny_llama) -> EmotionVectors:
    """Vectors of a model that is on the Hub, with a verdict."""
    vectors = random_vectors(tiny_llama())
    provenance = dataclasses.replace(vectors.provenance, model="lab/model-1b", counts={"calm": 9, "neutral": 40})
    return dataclasses.replace(vectors, provenance=provenance, validation={"verdict": VERDICT})


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
