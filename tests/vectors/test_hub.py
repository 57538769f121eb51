"""Vectors on the Hub: what goes up comes down, and one line says why not."""

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from emoreg.cli import app
from emoreg.vectors import model_card, pull_from_hub, push_to_hub
from emoreg.vectors.card import FILE
from tests.vectors.conftest import COMMIT


class TestHub:
    """Against a server on this machine, by the Hub's own client."""

    def test_what_is_pushed_can_be_pulled(self, shared, hub):
        url = push_to_hub(shared, "me/calm", token="hf_x")
        assert url.endswith(f"/me/calm/commit/{COMMIT}")
        assert hub.files.keys() == {"README.md", FILE}
        assert hub.files["README.md"].decode() == model_card(shared, "me/calm")
        assert sum("/commit/" in path for path in hub.asked) == 1  # both files, or neither
        pulled = pull_from_hub("me/calm", "v1", token="hf_x")
        assert pulled.fingerprint() == shared.fingerprint()
        assert pulled.provenance == shared.provenance
        assert pulled.validation == shared.validation
        assert any("/resolve/v1/" in path for path in hub.asked)

    def test_from_the_command_line(self, shared, hub):
        shared.save("v")
        result = CliRunner().invoke(app, ["push", "v.safetensors", "me/calm"])
        assert result.exit_code == 0, result.output
        assert f"/me/calm/commit/{COMMIT}" in result.output
        assert FILE in hub.files

    def test_a_damaged_file_is_refused(self, shared, hub):
        push_to_hub(shared, "me/calm", token="hf_x")
        hub.files[FILE] = hub.files[FILE][:-9]
        with pytest.raises(ValueError, match="is no whole safetensors file"):
            pull_from_hub("me/calm", token="hf_x")

    def test_nothing_there(self, hub):
        with pytest.raises(ValueError, match=f"cannot get {FILE} of me/calm at main .*404"):
            pull_from_hub("me/calm", token="hf_x")

    def test_no_server(self, shared, hub, monkeypatch):
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        with pytest.raises(ValueError, match="cannot push to me/calm .*check the name, the connection"):
            push_to_hub(shared, "me/calm", token="hf_x")

    def test_offline(self, shared):
        with pytest.raises(ValueError, match="cannot push to me/calm .*offline"):
            push_to_hub(shared, "me/calm", token="hf_x")

    def test_an_id_that_cannot_be(self, shared, hub):
        with pytest.raises(ValueError, match="cannot get .*Repo id must"):
            pull_from_hub("me/calm/down", token="hf_x")
        with pytest.raises(ValueError, match="repo_id must be the name of a repository"):
            push_to_hub(shared, "")
