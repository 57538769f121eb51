"""Extraction is the same on any number of ranks, whatever spreads the model, and however often it was broken off."""

import os
import random
import shutil
import signal

import pytest
import torch
from accelerate import PartialState
from torch.nn.functional import normalize
from transformers import TrainerCallback

from emoreg.corpus import LabelledText
from emoreg.extraction import MomentsFitter, extract, held_out_auc, shards
from tests import tiny
from tests.distributed.engines import options
from tests.distributed.processes import run
from tests.extraction.texts import corpus, neutral, plant, story
from tests.support import sft_trainer

FIELDS = ("directions", "mean", "std", "residual_norm", "reference_z")


def planted():
    PartialState(cpu=True)  # the ranks meet
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    plant(model, tokenizer)
    return model, tokenizer


def extracted(model, tokenizer, tokens_per_batch=400, n=8, resume_dir=None):
    """The vectors' tensors, their hash, and the directions in fp64, from the moments that `extract` came to."""
    found, result = [], MomentsFitter.result

    def keep(fitter):
        found.append(result(fitter))
        return found[-1]

    MomentsFitter.result = keep
    try:
        vectors = extract(
            model, tokenizer, corpus(n), neutral(), from_token=20, tokens_per_batch=tokens_per_batch,
            reference_texts=3, progress=False, resume_dir=resume_dir,
        )  # fmt: skip
    finally:
        MomentsFitter.result = result
    of_texts = next(m for m in reversed(found) if m.products is None)
    tensors = {name: getattr(vectors, name) for name in FIELDS}
    return tensors | {"exact": slow_directions(of_texts, found[-1]), "hash": vectors.fingerprint()}


def slow_directions(of_texts, of_tokens):
    """Difference of means, less the components that hold half of neutral variance; nothing is rounded to fp32."""
    directions = []
    for layer in range(len(of_texts.layers)):
        means = of_texts.sums[layer] / of_texts.count[:, None]
        unit = normalize(means - means.mean(0), dim=-1)
        variance, components = torch.linalg.eigh(of_tokens.covariance[layer, :-1, :-1])
        taken, out = 0.0, []
        while taken < 0.5 * variance.sum():
            out.append(components[:, -1 - len(out)])
            taken += variance[-len(out)]
        for component in out:
            unit = unit - torch.outer(unit @ component, component)
        directions.append(normalize(unit, dim=-1))
    return torch.stack(directions)


def apart(a, b) -> float:
    assert a["exact"].dtype == torch.float64
    return float((a["exact"] - b["exact"]).abs().max())


def assert_alike(a, b, atol=2e-6):
    for name in FIELDS:
        torch.testing.assert_close(a[name], b[name], rtol=2e-6, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def on_ranks(world, work, folder, *args, **options):
    folder.mkdir(parents=True)
    return run(world, work, folder, *args, **options)


def copies(rank, folder, *args):
    return extracted(*planted(), *args)


class TestRanks:
    """Each rank has a copy of the model."""

    def test_one_two_and_four_ranks_come_to_the_same_directions(self, tmp_path):
        (one,) = on_ranks(1, copies, tmp_path / "1", 150)  # passes of one or two texts
        assert torch.allclose(one["exact"].float(), one["directions"], atol=1e-6)
        (padded,) = on_ranks(1, copies, tmp_path / "padded", 400)
        assert apart(one, padded) > 1e-9, "too blunt a measure: other batches round otherwise"
        for world in (2, 4):
            many = on_ranks(world, copies, tmp_path / str(world), 150)
            print(f"\n1 and {world} ranks: {apart(one, many[0]):.1e} apart in fp64")
            assert apart(one, many[0]) <= 1e-9
            assert_alike(one, many[0], atol=2e-7)
            assert {each["hash"] for each in many} == {many[0]["hash"]}

    def test_more_ranks_than_batches(self, tmp_path):
        (one,) = on_ranks(1, copies, tmp_path / "1", 10_000)
        three = on_ranks(3, copies, tmp_path / "3", 10_000)  # one batch of each stream
        assert apart(one, three[0]) == 0.0
        assert len({each["hash"] for each in [one, *three]}) == 1

    def test_held_out_auc(self, tmp_path):
        (one,) = on_ranks(1, judged, tmp_path / "1")
        two = on_ranks(2, judged, tmp_path / "2")
        assert two == [one, one]
        assert len(set(one.values())) > 1, "a corpus on which every answer is the same shows nothing"


def judged(rank, folder):
    PartialState(cpu=True)
    rng = random.Random(3)
    texts = [LabelledText(story(rng, 60), emotion) for _ in range(8) for emotion in ("desperate", "calm", "sad")]
    options = {"from_token": 20, "folds": 4, "tokens_per_batch": 400, "progress": False}
    return held_out_auc(tiny.llama(), tiny.tokenizer(), texts, **options)


def broken(rank, folder, how):
    model, tokenizer = planted()
    calls = []

    def fail(_module, _args, output):
        calls.append(1)
        if rank == 1 and how == "late" and len(calls) == 2:
            raise RuntimeError("something broke")
        if rank == 1 and how == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return output * torch.nan if rank == 1 and how == "nan" and len(calls) == 2 else output

    model.model.layers[2].register_forward_hook(fail)
    return extracted(model, tokenizer)


@pytest.mark.parametrize(
    ("how", "own", "others"),
    [
        ("late", "RuntimeError: something broke", "ValueError: rank 1 has failed: something broke"),
        ("memory", "ValueError: out of memory in a forward pass of a single text", "rank 1 has failed: out of memory"),
        ("nan", "ValueError: hidden states at layer 2 are not finite", "hidden states at layer 2 are not finite"),
    ],
)
def test_what_fails_on_one_rank_ends_all(how, own, others, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        run(2, broken, tmp_path, how, timeout=60)
    first, second = str(caught.value).split("rank 1: ")
    assert "hang" not in first.replace("ranks [] hang", "")
    assert others in first
    assert own in second


class AtBegin(TrainerCallback):
    """Something to be done when the engine has the model, before the first step."""

    def __init__(self, work):
        self.on_train_begin = lambda *_, **__: work()


def sharded(rank, folder, engine, tokens_per_batch=400):
    settings = options(engine)
    model, tokenizer = tiny.llama(), tiny.tokenizer()
    plant(model, tokenizer)
    trainer, found = sft_trainer(model, tokenizer, folder, **settings), []
    trainer.add_callback(AtBegin(lambda: found.append(extracted(trainer.model_wrapped, tokenizer, tokens_per_batch))))
    trainer.train()  # which goes on, so the engine has its weights where it left them
    return found[0]


class TestEngines:
    """Each rank has its share of the model, so all must run as many passes."""

    @pytest.mark.parametrize("engine", ["DDP", "FSDP2", "FSDP1", "ZeRO-3"])
    def test_a_model_in_an_engine_gives_the_same_directions(self, engine, tmp_path):
        (one,) = on_ranks(1, copies, tmp_path / "1")
        two = on_ranks(2, sharded, tmp_path / "2", engine)
        print(f"\n{engine}: {apart(one, two[0]):.1e} apart in fp64")
        assert apart(one, two[0]) <= 1e-9
        assert_alike(one, two[0])
        assert two[0]["hash"] == two[1]["hash"]

    @pytest.mark.parametrize("engine", ["FSDP2", "FSDP1", "ZeRO-3"])
    def test_a_rank_without_a_batch_still_comes_by(self, engine, tmp_path):
        (one,) = on_ranks(1, copies, tmp_path / "1", 10_000)
        two = on_ranks(2, sharded, tmp_path / "2", engine, 10_000)
        assert apart(one, two[0]) <= 1e-9


def killed(rank, folder, at, resume_dir):
    """Rank 1 (or 0 where it is alone) is killed in its ``at``-th pass."""
    model, tokenizer = planted()
    passes = []

    def count(*_):
        passes.append(1)
        if len(passes) == at and rank == max(0, int(os.environ.get("WORLD_SIZE", 1)) - 1):
            os.kill(os.getpid(), signal.SIGKILL)

    model.model.layers[1].register_forward_pre_hook(count)
    shards.SAVE_EVERY = shards._SHARE = 0
    return extracted(model, tokenizer, 200, resume_dir=resume_dir) | {"passes": len(passes)}


class TestResume:
    """A process is killed, and the run is started again."""

    @pytest.mark.parametrize("at", [4, 9], ids=["among labelled texts", "among neutral ones"])
    def test_it_goes_on_from_what_was_saved(self, at, tmp_path):
        (unbroken,) = on_ranks(1, killed, tmp_path / "unbroken", 0, None)
        kept = tmp_path / "kept"
        with pytest.raises(RuntimeError):  # of rank 0, which sees that the other is gone
            on_ranks(2, killed, tmp_path / "killed", at, kept, timeout=60)
        assert list(kept.glob("*.safetensors"))
        for world in (1, 2):
            folder = shutil.copytree(kept, tmp_path / f"kept for {world}")
            resumed = on_ranks(world, killed, tmp_path / f"resumed by {world}", 0, folder)
            print(f"\nkilled in pass {at}, resumed by {world}: {apart(unbroken, resumed[0]):.1e} apart in fp64")
            assert apart(unbroken, resumed[0]) <= 1e-9
            assert_alike(unbroken, resumed[0])
            done = unbroken["passes"] + world - 1 - sum(each["passes"] for each in resumed)  # each reads the reference
            assert done >= 2 * (at - 3), "little was kept"
            assert not list(folder.iterdir())

    def test_a_run_may_be_broken_off_again_and_again(self, tmp_path):
        (unbroken,) = on_ranks(1, killed, tmp_path / "unbroken", 0, None)
        for number in range(3):
            with pytest.raises(FileNotFoundError):  # the result of a killed process
                on_ranks(1, killed, tmp_path / str(number), 4, tmp_path / "kept")
        (resumed,) = on_ranks(1, killed, tmp_path / "resumed", 0, tmp_path / "kept")
        assert apart(unbroken, resumed) <= 1e-9
        assert resumed["passes"] == unbroken["passes"] - 9
