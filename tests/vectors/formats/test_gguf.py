"""GGUF control vectors: llama.cpp takes what is written, repeng's and its own are read, each at the right block."""

import dataclasses
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from emoreg import EmotionVectors
from emoreg.extraction import calibrate
from emoreg.model.hooks import hook_blocks, steer
from emoreg.vectors.formats import read_directions, read_gguf, write_gguf
from tests.support import random_vectors
from tests.vectors.formats.foreign import as_llama_cpp, generator_gguf, repeng_gguf

NEUTRAL = ["The shop opens at nine and closes at five.", "The list has four lines, and the last one is empty."]


@pytest.fixture
def vectors(tiny_llama) -> EmotionVectors:
    vectors = random_vectors(tiny_llama())
    return dataclasses.replace(vectors, separation=torch.rand(4, 3) + 0.5, residual_norm=torch.rand(4) + 2)


class TestWriting:
    """What is written loads in llama.cpp, and is whole or absent."""

    def test_llama_cpp_accepts_it_and_gets_every_block_but_the_first(self, vectors, caplog):
        path = write_gguf(vectors, "calm", "calm")
        assert path == Path("calm.gguf")
        rows = as_llama_cpp(path.read_bytes())
        assert list(rows) == [1, 2, 3]
        for layer, row in rows.items():
            assert np.array_equal(row, (vectors.directions[layer, 1] * vectors.separation[layer, 1]).numpy())
        assert "block 0 is left out" in caplog.text

    def test_the_gguf_package_reads_it_as_repeng_does(self, vectors):
        reader = gguf.GGUFReader(write_gguf(vectors, "calm", "calm"))
        assert reader.fields["general.architecture"].contents() == "controlvector"
        assert reader.fields["controlvector.model_hint"].contents() == vectors.provenance.model
        assert reader.fields["controlvector.layer_count"].contents() == 3
        assert [tensor.name for tensor in reader.tensors] == ["direction.1", "direction.2", "direction.3"]

    @pytest.mark.parametrize("width", [1, 7, 8, 33])
    def test_widths_that_fill_no_alignment(self, vectors, width):
        directions = torch.nn.functional.normalize(torch.randn(4, 3, width), dim=-1)
        path = write_gguf(dataclasses.replace(vectors, directions=directions), "sad", "sad.gguf")
        assert as_llama_cpp(path.read_bytes())[2].shape == (width,)

    @pytest.mark.parametrize("scale", ["separation", "residual_norm", "unit"])
    def test_lengths(self, vectors, scale):
        rows = as_llama_cpp(write_gguf(vectors, "sad", "sad", scale=scale).read_bytes())
        wanted = {"separation": vectors.separation[:, 2], "residual_norm": vectors.residual_norm, "unit": torch.ones(4)}
        lengths = [np.linalg.norm(row) for row in rows.values()]
        assert lengths == pytest.approx(wanted[scale][1:].tolist(), rel=1e-6)

    def test_a_mistake_writes_nothing(self, vectors, tmp_path):
        with pytest.raises(ValueError, match="block 0 alone"):
            write_gguf(vectors.select(layers=[0]), "calm", "calm")
        with pytest.raises(ValueError, match="did you mean 'calm'"):
            write_gguf(vectors, "clam", "calm")
        with pytest.raises(ValueError, match="scale must be one of"):
            write_gguf(vectors, "calm", "calm", scale="huge")
        with pytest.raises(ValueError, match="cannot write .*; choose a folder"):
            write_gguf(vectors, "calm", tmp_path / "absent" / "calm")
        assert list(tmp_path.iterdir()) == []


class TestLayers:
    """direction.N is emoreg's block N, neither one more nor one less."""

    def test_adding_them_as_llama_cpp_does_is_steering(self, vectors, tiny_llama):
        model, ids = tiny_llama(), torch.arange(4, 24)[None]
        rows = as_llama_cpp(write_gguf(vectors, "calm", "calm").read_bytes())
        # llama_adapter_cvec::apply_to: cur = cur + tensors[il], at the end of block il.
        handles = [
            model.model.layers[il].register_forward_hook(lambda _m, _a, out, row=row: out + torch.tensor(row))
            for il, row in rows.items()
        ]
        theirs = model(ids).logits
        for handle in handles:
            handle.remove()
        push_LD = vectors.directions[:, 1] * vectors.separation[:, 1, None]
        with steer(model, [1, 2, 3], push_LD[1:]):
            ours = model(ids).logits
        with steer(model, [0, 1, 2], push_LD[1:]):
            one_off = model(ids).logits
        assert torch.equal(theirs, ours)
        assert (theirs - one_off).abs().max() > 0.01

    def test_a_vector_that_repeng_made_lies_where_emoreg_reads(self, tiny_llama):
        # repeng's layer i is estimated at hidden_states[i + 1] and exported as direction.i.
        model, ids = tiny_llama(), torch.arange(4, 24)[None]
        hidden = model(ids, output_hidden_states=True).hidden_states
        rows = {layer: hidden[layer + 1][0, -1].detach() for layer in (1, 2)}
        found = read_gguf(repeng_gguf(Path("honest.gguf"), rows))
        seen = {}
        with hook_blocks(model, found.layers, lambda layer, state: seen.update({layer: state[0, -1].detach()})):
            model(ids)
        for row, layer in enumerate(found.layers):
            assert torch.allclose(found.shift[row, 0].float(), seen[layer])

    def test_llama_cpps_own_generator_counts_one_more(self, caplog):
        # It names what it took at the output of block il "direction.{il + 1}" (cvector-generator/mean.hpp, pca.hpp).
        path = generator_gguf(Path("calm.gguf"), {il + 1: torch.full((8,), il + 1.0) for il in range(3)})
        assert read_gguf(path).layers == (1, 2, 3)
        assert "offset=-1" in caplog.text
        assert read_gguf(path, offset=-1).layers == (0, 1, 2)
        with pytest.raises(ValueError, match="offset -2 makes block 1 into -1"):
            read_gguf(path, offset=-2)


class TestReading:
    """Directions and lengths come back; what is no control vector does not."""

    def test_round_trip(self, vectors):
        found = read_directions(write_gguf(vectors, "calm", "other name"))
        assert (found.emotions, found.layers) == (("calm",), (1, 2, 3))
        assert torch.allclose(found.directions.float(), vectors.directions[1:, 1:2], atol=1e-7)
        assert torch.allclose(found.shift.norm(dim=-1).float(), vectors.separation[1:, 1:2])

    def test_vectors_of_a_model(self, vectors, tiny_llama, tiny_tokenizer):
        found = read_gguf(write_gguf(vectors, "calm", "calm"))
        made = calibrate(tiny_llama(), tiny_tokenizer, found, NEUTRAL, progress=False)
        made.check(tiny_llama())
        assert torch.allclose(made.directions[:, 0], vectors.directions[1:, 1], atol=1e-6)
        assert torch.allclose(made.separation[:, 0], vectors.separation[1:, 1])
        assert made.provenance.method.startswith("control vector of a GGUF file")
        with pytest.raises(ValueError, match="width 32, the model has 64"):
            calibrate(tiny_llama(hidden_size=64), tiny_tokenizer, found, NEUTRAL, progress=False)

    def test_repengs_block_0_and_a_name(self):
        rows = {layer: torch.randn(8) for layer in (0, 2)}
        found = read_gguf(repeng_gguf(Path("trusting.gguf"), rows))
        assert (found.emotions, found.layers) == (("trusting",), (0, 2))
        assert read_gguf("trusting.gguf", "calm").emotions == ("calm",)

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ({}, "holds no direction"),
            ({1: torch.ones(8), 2: torch.ones(9)}, "not one"),
            ({1: torch.zeros(8)}, "the vector of block 1 has length 0"),
            ({1: torch.full((8,), torch.nan)}, "has length nan"),
            ({1: torch.full((8,), torch.inf)}, "has length inf"),
            ({1: torch.ones(8, dtype=torch.float16)}, "GGML type 1, expected 0, fp32"),
            ({1: torch.ones(2, 4)}, r"shape \[4, 2\], expected one vector"),
        ],
    )
    def test_refused(self, rows, message):
        path = repeng_gguf(Path("v.gguf"), rows)
        with pytest.raises(ValueError, match=f"v.gguf is no control vector.*{message}"):
            read_gguf(path)

    def test_a_model(self):
        writer = gguf.GGUFWriter("model.gguf", "llama")
        writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
        writer.add_tensor("token_embd.weight", np.ones((2, 8), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(ValueError, match="a tensor 'token_embd.weight', expected none but direction.N"):
            read_gguf("model.gguf")

    def test_other_suffixes(self, vectors, tmp_path):
        with pytest.raises(ValueError, match="read those with EmotionVectors.load"):
            read_directions(vectors.save("v"))
        with pytest.raises(ValueError, match="of no known kind: expected a name that ends in .gguf, .pt, .svec"):
            read_directions("v.bin")
        with pytest.raises(ValueError, match="no file at"):
            read_directions("absent.gguf")
