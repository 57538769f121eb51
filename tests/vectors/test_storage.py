"""The file of a set of vectors."""

import dataclasses
import json
import os

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from emoreg import EmotionVectors, files
from tests.support import random_vectors


@pytest.fixture
def vectors(tiny_llama):
    return random_vectors(tiny_llama())


class TestFile:
    """One safetensors file: exact, whole or absent, and anything else refused in one line."""

    def test_round_trip_is_exact(self, vectors, tmp_path):
        path = vectors.save(tmp_path / "v")
        assert path == tmp_path / "v.safetensors"
        for given in (path, tmp_path / "v"):
            loaded = EmotionVectors.load(given)
            for field in dataclasses.fields(vectors):
                before, after = getattr(vectors, field.name), getattr(loaded, field.name)
                if isinstance(before, torch.Tensor):
                    assert torch.equal(before, after), field.name
                elif field.name == "weights":
                    assert before.keys() == after.keys()
                    assert all(torch.equal(before[name], after[name]) for name in before)
                else:
                    assert before == after, field.name

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(ValueError, match="no vectors at .*; make them with `emoreg extract`"):
            EmotionVectors.load(tmp_path / "nothing")

    @pytest.mark.parametrize("keep", [0, 7, 100, 0.5, -1])
    def test_a_truncated_file(self, vectors, tmp_path, keep):
        path = vectors.save(tmp_path / "v")
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
        with pytest.raises(ValueError, match="is no whole safetensors file"):
            EmotionVectors.load(path)

    def test_a_file_that_is_no_safetensors(self, tmp_path):
        (tmp_path / "v.safetensors").write_text("these are not the tensors you are looking for " * 20)
        with pytest.raises(ValueError, match="is no whole safetensors file"):
            EmotionVectors.load(tmp_path / "v.safetensors")

    def test_a_safetensors_file_of_another_format(self, tmp_path):
        save_file({"weight": torch.zeros(2)}, tmp_path / "v.safetensors")
        with pytest.raises(ValueError, match="is no emoreg vector file of this version: format None"):
            EmotionVectors.load(tmp_path / "v")

    def test_a_file_whose_contents_disagree(self, vectors, tmp_path):
        path = vectors.save(tmp_path / "v")
        with safe_open(path, framework="pt") as file:
            metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        save_file(tensors | {"std": tensors["std"] * 0}, path, metadata=metadata)
        with pytest.raises(ValueError, match="damaged emoreg vector file: std must be positive"):
            EmotionVectors.load(path)

    @pytest.mark.parametrize(
        ("key", "text", "message"),
        [
            ("emotions", "desperate", "emotions is no JSON"),
            ("emotions", '"abc"', "emotions must be a JSON list"),
            ("emotions", '{"a": 1, "b": 2, "c": 3}', "emotions must be a JSON list"),
            ("emotions", '["a", "b", 3]', "emotions"),
            ("emotions", "[" * 10**5, "emotions nests too deep"),
            ("layers", "[0, 1, 2, 1e400]", "layers"),
            ("layers", "[0, 1, 2, -3]", "layers must be a list of one or more distinct block numbers"),
            ("layers", f"[{'9' * 5000}]", "layers is no JSON"),
            ("provenance", "[]", "provenance must be a JSON dict"),
            ("provenance", '{"model": "m"}', "missing .* required .*argument"),
            ("validation", "[1]", "validation"),
            ("emotions", None, "it has no 'emotions'"),
        ],
    )
    def test_metadata_that_is_none(self, vectors, tmp_path, key, text, message):
        path = vectors.save(tmp_path / "v")
        metadata, tensors = files.read_safetensors(path)
        self.rewrite(path, {k: v for k, v in metadata.items() if k != key} | ({key: text} if text else {}), tensors)
        with pytest.raises(ValueError, match=f"(?s)v.safetensors is a damaged emoreg.*{message}"):
            EmotionVectors.load(path)

    @pytest.mark.parametrize(
        ("field", "value"),
        [("model", 5), ("revision", []), ("counts", [1]), ("counts", {"calm": "many"}), ("versions", {"torch": 2})],
    )
    def test_a_provenance_of_other_types(self, vectors, tmp_path, field, value):
        path = vectors.save(tmp_path / "v")
        metadata, tensors = files.read_safetensors(path)
        changed = json.loads(metadata["provenance"]) | {field: value}
        self.rewrite(path, metadata | {"provenance": json.dumps(changed)}, tensors)
        with pytest.raises(ValueError, match="damaged emoreg vector file"):
            EmotionVectors.load(path)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"std": None}, "it has no 'std'"),
            ({"extra": torch.ones(3)}, r"tensors of other names: \['extra'\]"),
            ({"weights/q": torch.ones(2, 2)}, r"weights\['q'\] must be one-dimensional, of fp32 values"),
            ({"weights/q": torch.ones(2).half()}, r"weights\['q'\] must be one-dimensional, of fp32 values"),
        ],
    )
    def test_tensors_that_are_missing_or_strange(self, vectors, tmp_path, changes, message):
        path = vectors.save(tmp_path / "v")
        metadata, tensors = files.read_safetensors(path)
        changed = {name: value for name, value in (tensors | changes).items() if value is not None}
        self.rewrite(path, metadata, changed)
        with pytest.raises(ValueError, match=f"damaged emoreg vector file: .*{message}"):
            EmotionVectors.load(path)

    @pytest.mark.parametrize("part", ["tensors", "metadata", "digest"])
    def test_contents_that_are_sound_and_not_what_was_written(self, vectors, tmp_path, part):
        path = vectors.save(tmp_path / "v")
        metadata, tensors = files.read_safetensors(path)
        if part == "tensors":
            tensors["mean"] = tensors["mean"] + 1e-7
        elif part == "metadata":
            metadata["emotions"] = metadata["emotions"].replace("sad", "mad")
        else:
            del metadata[files.DIGEST]
        save_file(tensors, path, metadata=metadata)
        with pytest.raises(ValueError, match="its sha256 is not that of what it holds"):
            EmotionVectors.load(path)

    @staticmethod
    def rewrite(path, metadata, tensors):
        """With a hash that is right, so that it is not what refuses the file."""
        save_file(tensors, path, metadata=metadata | {files.DIGEST: files.digest(metadata, tensors)})

    def test_saving_into_no_folder_leaves_nothing(self, vectors, tmp_path):
        with pytest.raises(ValueError, match="cannot write .*; choose a folder"):
            vectors.save(tmp_path / "absent" / "v")
        assert os.listdir(tmp_path) == []

    def test_a_save_that_fails_keeps_the_old_file(self, vectors, tmp_path, monkeypatch):
        path = vectors.save(tmp_path / "v")
        before = path.read_bytes()

        def full_disk(*_args, **_kwargs):
            raise OSError("No space left on device")

        monkeypatch.setattr("emoreg.files.os.replace", full_disk)
        with pytest.raises(ValueError, match="No space left"):
            vectors.select(["calm"]).save(path)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["v.safetensors"]
