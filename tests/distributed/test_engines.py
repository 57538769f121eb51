"""Two processes under any engine are one on the same global batch: weights, and every statistic that is logged."""

import functools

import pytest
import torch
from accelerate import ParallelismConfig
from transformers import AutoModelForCausalLM

from emoreg import Hinge, Regularizer, RegularizerCallback, Target
from emoreg.training.trainers import check_engine
from tests.distributed import engines, law_3
from tests.distributed.law_3 import train
from tests.distributed.processes import run
from tests.invariants.test_law_3 import apart
from tests.support import random_vectors, sft_trainer


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return functools.cache(lambda name, way: law_3.one(name, way, tmp_path_factory.mktemp("one")))


# The whole table would take too long here: `python -m tests.distributed.matrix` holds every cell.
CELLS = [
    (engine, name, way)
    for engine in engines.ENGINES
    for name, way in law_3.CELLS
    if (engine in ("DDP", "FSDP2", "ZeRO-2", "ZeRO-3") and way == "full")
    or (engine in ("FSDP1", "ZeRO-1") and (name, way) == ("SFT", "full"))
    or engine in ("FSDP2", "ZeRO-3")
]


@pytest.mark.parametrize(("engine", "name", "way"), CELLS)
def test_two_ranks_are_one(engine, name, way, one, tmp_path):
    law_3.assert_same(law_3.two(engine, name, way, tmp_path), one(name, way))


def hinged(rank, folder, cut, weight):
    return train(rank, folder, "SFT", cut, penalties=[Hinge("desperate", weight=weight)])


def test_the_comparison_can_fail(tmp_path):
    """Half the hinge's weight is enough to be seen."""
    (tmp_path / "one").mkdir()
    (one,) = run(1, hinged, tmp_path / "one", law_3.WHOLE, 0.5)
    with pytest.raises(AssertionError):
        law_3.assert_same(run(2, hinged, tmp_path, (2, 2), 0.25), one)


def closed_loop(rank, folder, cut):
    return train(rank, folder, "SFT", cut, target=Target("desperate", above_base=-0.2))


def test_the_closed_loop_comes_to_the_same_weight_on_every_rank_and_on_one(tmp_path):
    (tmp_path / "one").mkdir()
    (one,) = run(1, closed_loop, tmp_path / "one", law_3.WHOLE)
    two = run(2, closed_loop, tmp_path, (2, 2))
    factors = [[log["emoreg/target/factor"] for log in result["logs"]] for result in (one, *two)]
    assert factors[1] == factors[2]
    assert factors[1] == pytest.approx(factors[0], rel=1e-5)
    assert len(set(factors[0])) > 1
    assert apart(two[0]["weights"], one["weights"]) <= 1e-5


def broken_off(rank, folder, engine, resume):
    """Two runs in one folder of all ranks: to the end, saving at step 3, and from there again."""
    options = {"save_strategy": "steps", "save_steps": 3, "target": Target("desperate", above_base=-0.2)}
    return train(rank, folder.parent / "run", "SFT", (2, 2), engine, resume=resume, **options)


@pytest.mark.parametrize("engine", ["FSDP1", "ZeRO-1", "ZeRO-2"])  # test_faults.py resumes under the others
def test_resume_is_exact(engine, tmp_path):
    """The checkpoint cuts a window of the log in two, whose statistics travel in it."""
    unbroken = run(2, broken_off, tmp_path, engine, None)
    resumed = run(2, broken_off, tmp_path, engine, str(tmp_path / "run" / "checkpoint-3"))
    assert apart(resumed[0]["weights"], unbroken[0]["weights"]) == 0.0
    assert resumed[0]["logs"] == resumed[1]["logs"]
    assert len(resumed[0]["logs"]) == 3
    for ours, theirs in zip(resumed[0]["logs"], unbroken[0]["logs"], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-12, rel=1e-12)


def other_vectors(rank, folder):
    return train(rank, folder, "SFT", (2, 2), vectors_seed=rank)


def test_a_rank_with_other_vectors_is_refused_on_all_of_them(tmp_path):
    with pytest.raises(RuntimeError, match=r"the vectors of ranks \[1\] are not those of rank 0") as caught:
        run(2, other_vectors, tmp_path)
    assert str(caught.value).count("ValueError: the vectors of ranks") == 2


def in_scope_on(ranks):
    """A run whose hinge and statistics see only the batches of some ranks."""

    def work(rank, folder, engine):
        def scope(inputs):
            return torch.full_like(inputs["input_ids"], rank in ranks).bool()

        return train(rank, folder, "SFT", (2, 2), engine, penalties=[Hinge("desperate", threshold=-1.0, scope=scope)])

    return work


@pytest.mark.parametrize("engine", ["DDP", "FSDP2", "ZeRO-3"])
def test_a_rank_with_no_position_in_scope_goes_on(engine, tmp_path):
    two = run(2, in_scope_on([0]), tmp_path, engine)
    assert two[0]["logs"] == two[1]["logs"]


def test_a_scope_that_is_empty_on_all_ranks_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="selects no position of the first step's batches"):
        run(2, in_scope_on([]), tmp_path, "DDP")


def tensor_parallel(rank, folder):
    engines.show_gpus_to_accelerate()
    torch.distributed.init_process_group("gloo")
    model = AutoModelForCausalLM.from_pretrained(folder.parent / "model", tp_plan="auto", dtype=torch.float32)
    return train(rank, folder, "SFT", (8, 1), model=model)


class TestWhatIsRefusedByName:
    def test_tensor_parallelism(self, tiny_llama, tmp_path):
        tiny_llama().save_pretrained(tmp_path / "model")
        with pytest.raises(RuntimeError, match="emoreg does not run under tensor parallelism; use DDP, FSDP or"):
            run(2, tensor_parallel, tmp_path)

    @pytest.mark.parametrize(
        ("layout", "name"),
        [
            ({"sp_size": 2, "sp_backend": "deepspeed"}, r"sequence parallelism \(Ulysses\)"),
            ({"cp_size": 2}, "context parallelism"),
        ],
    )
    def test_a_sequence_spread_over_ranks(self, layout, name, tiny_llama, tiny_tokenizer, tmp_path):
        model = tiny_llama()
        trainer = sft_trainer(model, tiny_tokenizer, tmp_path)
        trainer.add_callback(RegularizerCallback(trainer, Regularizer(random_vectors(model))))
        trainer.accelerator.state.parallelism_config = ParallelismConfig(**layout)
        with pytest.raises(ValueError, match=f"emoreg does not run under {name}"):
            check_engine(trainer)
