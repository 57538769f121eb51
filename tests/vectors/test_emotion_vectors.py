"""`EmotionVectors`: what it refuses, what it keeps through a file, and which models it accepts."""

import dataclasses
import json
import os

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

from emoreg import EmotionVectors, files
from emoreg.model.blocks import decoder_blocks
from emoreg.vectors.provenance import sample_weights
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
            ({"weights/q": torch.ones(2, 2)}, r"weights\['q'\] must be a row of fp32 values"),
            ({"weights/q": torch.ones(2).half()}, r"weights\['q'\] must be a row of fp32 values"),
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

        monkeypatch.setattr("emoreg.vectors.emotion_vectors.os.replace", full_disk)
        with pytest.raises(ValueError, match="No space left"):
            vectors.select(["calm"]).save(path)
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == ["v.safetensors"]


class TestValues:
    """Impossible values are refused at construction."""

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"directions": lambda v: v.directions * 2}, "directions must have norm 1"),
            ({"mean": lambda v: v.mean * torch.nan}, "mean must be finite fp32"),
            ({"std": lambda v: v.std * 0}, "std must be positive"),
            ({"emotions": lambda v: ("calm", "calm", "sad")}, "emotions must be a list of distinct names"),
            ({"layers": lambda v: (3, 1, 2, 0)}, "expected 4 distinct ascending layers"),
        ],
    )
    def test_refused(self, vectors, change, message):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(vectors, **{name: make(vectors) for name, make in change.items()})

    def test_frozen(self, vectors):
        with pytest.raises(dataclasses.FrozenInstanceError):
            vectors.emotions = ("other",)


class TestSelect:
    """`select` keeps every table in step."""

    def test_emotions_in_the_order_given_and_layers_ascending(self, vectors):
        chosen = vectors.select(["sad", "desperate"], [3, 1])
        assert chosen.emotions == ("sad", "desperate")
        assert chosen.layers == (1, 3)
        for field in ("directions", "mean", "std"):
            whole, part = getattr(vectors, field), getattr(chosen, field)
            assert torch.equal(part[0, 0], whole[1, 2]), field
            assert torch.equal(part[1, 1], whole[3, 0]), field
        assert torch.equal(chosen.reference_z[:, :, 1, 0], vectors.reference_z[:, :, 3, 2])
        assert torch.equal(chosen.residual_norm, vectors.residual_norm[[1, 3]])

    def test_an_unknown_emotion_suggests_the_nearest(self, vectors):
        with pytest.raises(ValueError, match="unknown emotion 'clam'; did you mean 'calm'"):
            vectors.select(["clam"])

    def test_a_layer_they_do_not_have(self, vectors):
        with pytest.raises(ValueError, match=r"layer 7 is out of range: these vectors have layers \[0, 1, 2, 3\]"):
            vectors.select(layers=[7])


class TestTrusted:
    """The layers of validation's verdict."""

    @pytest.fixture
    def judged(self, vectors):
        verdict = {"desperate": {"layers": [1, 2], "why": "it passes"}, "calm": {"layers": [], "why": "words"}}
        return dataclasses.replace(vectors, validation={"verdict": verdict})

    def test_those_that_validation_trusts(self, judged):
        assert judged.trusted("desperate") == (1, 2)

    def test_none_where_it_trusts_none(self, judged):
        assert judged.trusted("calm") == ()

    def test_only_those_that_were_selected(self, judged):
        assert judged.select(layers=[2, 3]).trusted("desperate") == (2,)

    def test_after_a_file(self, judged, tmp_path):
        assert EmotionVectors.load(judged.save(tmp_path / "v")).trusted("desperate") == (1, 2)

    def test_vectors_that_nobody_has_validated(self, vectors):
        with pytest.raises(ValueError, match="nobody has validated these vectors.* run `emoreg validate`"):
            vectors.trusted("desperate")

    def test_an_emotion_that_had_no_texts(self, judged):
        with pytest.raises(ValueError, match="'sad' was not validated, for want of texts; known: desperate, calm"):
            judged.trusted("sad")

    def test_an_unknown_emotion(self, judged):
        with pytest.raises(ValueError, match="unknown emotion 'desprate'; did you mean 'desperate'"):
            judged.trusted("desprate")


class TestCheck:
    """A model is accepted if the vectors come from it or from the base that it was tuned from."""

    def test_the_model_itself_also_in_bf16_and_under_adapters(self, tiny_llama, caplog):
        model = tiny_llama()
        vectors = random_vectors(model)
        vectors.check(model)
        vectors.check(get_peft_model(tiny_llama(), LoraConfig(target_modules="all-linear")))
        vectors.check(tiny_llama().to(torch.bfloat16))
        assert not caplog.records

    def test_a_fine_tune_is_accepted_with_a_word(self, tiny_llama, caplog):
        model = tiny_llama()
        vectors = random_vectors(model)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.1 * p.std() * torch.randn_like(p))
        vectors.check(model)
        assert "is a fine-tune of it" in caplog.text

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            ({"seed": 1}, "weights are unrelated to it"),
            ({"hidden_size": 64}, "width 32; the model has width 64"),
            ({"num_hidden_layers": 3}, "which is deeper"),
            ({"num_hidden_layers": 5}, "another architecture"),
            ({"intermediate_size": 48}, "another architecture"),
        ],
    )
    def test_another_model_is_refused(self, tiny_llama, vectors, other, message):
        with pytest.raises(ValueError, match=message):
            vectors.check(tiny_llama(**other))

    def test_a_model_is_found_again_after_its_own_checkpoint(self, tiny_llama, tmp_path, caplog):
        model = tiny_llama()
        vectors = random_vectors(model)
        model.save_pretrained(tmp_path)
        vectors.check(LlamaForCausalLM.from_pretrained(tmp_path))
        assert not caplog.records

    def test_no_blocks_to_be_found(self, tiny_llama, vectors):
        model = tiny_llama()
        del decoder_blocks(model)[3]
        with pytest.raises(ValueError, match="expected one list of 4 decoder blocks in LlamaForCausalLM, found 0"):
            decoder_blocks(model)


def test_a_matrix_of_more_values_than_fp32_can_count_is_sampled_to_its_end():
    model = torch.nn.Linear(4, 2**22 + 1, bias=False, dtype=torch.bfloat16)
    assert sample_weights(model)["weight"][-1] == model.weight[-1, -1]
