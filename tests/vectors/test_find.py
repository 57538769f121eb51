"""Vectors by whatever names them: a file, a repository, an artifact; and an error that says what was tried."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import wandb

from emoreg.vectors import find, push_to_hub
from emoreg.vectors.card import FILE


class TestFind:
    def test_vectors_are_given_back(self, shared):
        assert find(shared) is shared

    @pytest.mark.parametrize("source", ["v", "v.safetensors", Path("v"), Path("v.safetensors")])
    def test_a_file_with_or_without_suffix(self, shared, source):
        shared.save("v")
        assert find(source).fingerprint() == shared.fingerprint()

    def test_a_repository(self, shared, hub):
        push_to_hub(shared, "me/calm", token="hf_x")
        assert find("me/calm").fingerprint() == shared.fingerprint()

    def test_a_file_comes_before_a_repository_of_its_name(self, shared, hub):
        push_to_hub(shared, "me/calm", token="hf_x")
        Path("me").mkdir()
        nearer = shared.select(["calm"])
        nearer.save("me/calm")
        asked = len(hub.asked)
        assert find("me/calm").fingerprint() == nearer.fingerprint()
        assert len(hub.asked) == asked

    def test_an_artifact(self, shared, monkeypatch, tmp_path):
        shared.save(tmp_path / FILE)
        there = {"me/p/calm:latest": SimpleNamespace(download=lambda: str(tmp_path))}
        monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(artifact=there.__getitem__))
        assert find("wandb:me/p/calm:latest").fingerprint() == shared.fingerprint()


class TestErrors:
    def test_neither_a_file_nor_a_repository(self, hub):
        with pytest.raises(ValueError, match="no vectors at me.calm.safetensors, and none in a repository of"):
            find("me/calm")

    def test_neither_when_offline(self):
        with pytest.raises(ValueError, match="no vectors at me.calm.safetensors, and none in a .*me/calm at main"):
            find("me/calm")

    @pytest.mark.parametrize("source", ["v", "/no/such/v", "a/b/v", "me/v.safetensors", Path("me/v")])
    def test_what_can_be_no_repository_is_not_asked_for(self, hub, source):
        with pytest.raises(ValueError, match="^no vectors at .*v.safetensors; make them with `emoreg extract`$"):
            find(source)
        assert not hub.asked

    def test_a_damaged_file_is_not_passed_over(self, shared, hub):
        path = shared.save("v")
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(ValueError, match="is no whole safetensors file"):
            find("v")

    def test_no_name_at_all(self):
        with pytest.raises(ValueError, match="vectors must be the path of a file, or the name of a repository, got ''"):
            find("")
