"""Sums on disk: what is left after a crash, what of it is refused, and that nothing is left in the end."""

import pytest
import torch

from emoreg.corpus import LabelledText
from emoreg.extraction import MomentsFitter, shards
from emoreg.extraction.shards import Shards
from tests.extraction.test_extract import assert_same, run
from tests.extraction.texts import corpus, neutral, plant


@pytest.fixture
def model(tiny_llama, tiny_tokenizer, monkeypatch):
    monkeypatch.setattr(shards, "SAVE_EVERY", 0)
    monkeypatch.setattr(shards, "_SHARE", 0)
    model = tiny_llama()
    plant(model, tiny_tokenizer)
    return model


@pytest.fixture
def broken_off(model, tiny_tokenizer, tmp_path):
    """A folder in which a run has left its sums."""

    def fail(*_):
        calls.append(1)
        if len(calls) == 4:
            raise RuntimeError("the machine goes down")

    calls = []
    handle = model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="goes down"):
        run(model, tiny_tokenizer, resume_dir=tmp_path / "kept")
    handle.remove()
    return tmp_path / "kept"


def test_it_goes_on_and_leaves_nothing(model, tiny_tokenizer, broken_off):
    (path,) = broken_off.iterdir()
    (broken_off / f".{path.name}.half").write_text("a writing that was broken off")
    passes = []
    model.model.layers[1].register_forward_pre_hook(lambda *_: passes.append(1))
    resumed = run(model, tiny_tokenizer, resume_dir=broken_off)
    n_resumed = len(passes)
    assert_same(run(model, tiny_tokenizer), resumed, atol=1e-7)
    assert len(passes) - n_resumed == n_resumed + 3
    assert not list(broken_off.iterdir())


def test_the_bar_starts_where_it_goes_on(model, tiny_tokenizer, broken_off, capsys):
    run(model, tiny_tokenizer, resume_dir=broken_off, progress=True)
    assert "34/34" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("named", "change"),
    [
        ("layers", {"layers": [0, 1]}),
        ("token rule", {"from_token": 19}),
        ("tokens per batch", {"tokens_per_batch": 401}),
        ("texts", {"plain": neutral(seed=5)}),
        ("texts", {"texts": [*corpus()[:-1], LabelledText(corpus()[-1].text, "calm")]}),
    ],
)
def test_sums_of_something_else_are_refused(model, tiny_tokenizer, broken_off, named, change):
    with pytest.raises(ValueError, match=f"was made with other {named}; go on with the same, or remove it or choose"):
        run(model, tiny_tokenizer, resume_dir=broken_off, **change)


def test_another_models_sums_are_refused(model, tiny_llama, tiny_tokenizer, broken_off):
    with pytest.raises(ValueError, match="was made with other model"):
        run(tiny_llama(seed=3), tiny_tokenizer, resume_dir=broken_off)
    with pytest.raises(ValueError, match="was made with other model"):
        run(model.double(), tiny_tokenizer, resume_dir=broken_off)


def test_a_file_that_is_not_whole_is_refused(model, tiny_tokenizer, broken_off):
    (path,) = broken_off.iterdir()
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="is no whole safetensors file .*; remove it to go on without"):
        run(model, tiny_tokenizer, resume_dir=broken_off)


def test_a_folder_that_cannot_be(model, tiny_tokenizer, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot use .*file .*; choose another folder to resume from"):
        run(model, tiny_tokenizer, resume_dir=tmp_path / "file")


def test_saving_waits_its_time(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SAVE_EVERY", 3600)
    fitter = MomentsFitter((1,), 1)
    fitter.update(1, torch.ones(3, 2), torch.ones(3, 1))
    kept = Shards(tmp_path, "labelled", {}, (1,))
    kept.save(fitter.result, [0])
    assert not list(tmp_path.iterdir())
    kept.close(fitter.result, [0])
    assert Shards(tmp_path, "labelled", {}, (1,)).done == {0}
