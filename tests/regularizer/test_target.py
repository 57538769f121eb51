"""A target, sought by a closed loop: on a simulated model, and on the tiny one."""

import json
import math

import pytest
import torch

from emoreg import Hinge, Regularizer, RegularizerCallback, Target, default_penalties
from emoreg.reading import Statistics
from emoreg.regularizer import constant
from emoreg.regularizer.target import ClosedLoop
from tests.support import padded, random_vectors, sft_trainer, uneven_rows


def simulated(target: Target, weight: float, logs: int = 60) -> tuple[list[float], list[float]]:
    """A model whose contrast goes, with delay, to where its weight puts it: 1.3 with none, down with its logarithm."""
    loop, contrast, contrasts, factors = ClosedLoop(target), 1.3, [], []
    for _ in range(logs):
        settled = 1.3 - 0.2 * math.log1p(weight * loop.factor / 1e-3)
        contrast += 0.5 * (settled - contrast)
        contrasts.append(contrast)
        factors.append(loop.factor)
        loop.update(contrast, 0.4, 1.0)
    return contrasts, factors


class TestClosedLoop:
    @pytest.mark.parametrize("weight", [1e-4, 1e-2, 1.0])
    @pytest.mark.parametrize("target", [Target("desperate", at_most=0.6), Target("desperate", above_base=0.2)])
    def test_a_simulated_model_is_held_to_its_target(self, target, weight):
        contrasts, _ = simulated(target, weight)
        assert contrasts[-10:] == pytest.approx([0.6] * 10, rel=0.02)

    def test_the_factor_stays_within_its_bounds(self):
        _, factors = simulated(Target("desperate", at_most=-50.0, low=0.5, high=4.0), 1e-3)
        assert max(factors) == pytest.approx(4.0)
        _, factors = simulated(Target("desperate", at_most=50.0, low=0.5, high=4.0), 1e-3)
        assert min(factors) == pytest.approx(0.5)

    def test_it_backs_off_at_the_budget(self):
        loop = ClosedLoop(Target("desperate", at_most=0.0, task_budget=2.0, gain=1.0))
        loop.update(1.0, 0.0, 1.9)
        rising = loop.update(1.0, 0.0, 1.9)
        assert (rising["over_budget"], rising["factor"]) == (0.0, pytest.approx(math.e))
        falling = loop.update(1.0, 0.0, 2.1)
        assert (falling["over_budget"], falling["factor"]) == (1.0, pytest.approx(1.0))

    def test_it_goes_on_from_its_state(self):
        statistics = Statistics(["desperate"], [0, 1], [0.0], torch.device("cpu"))
        statistics.update([torch.randn(2, 3, 1), torch.randn(2, 3, 1)], torch.ones(2, 3).bool())
        loop, other = (ClosedLoop(Target("desperate", at_most=0.0)) for _ in range(2))
        loop.base = statistics.mean()
        loop.update(1.0, 0.0, 1.0)
        loop.update(0.7, 0.0, 1.0)
        other.load_state(json.loads(json.dumps(loop.state())), torch.device("cpu"))
        assert torch.equal(other.base, loop.base)
        assert other.update(0.5, 0.0, 1.0) == loop.update(0.5, 0.0, 1.0)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({}, "needs at_most or above_base, and not both"),
            ({"at_most": 1.0, "above_base": 1.0}, "needs at_most or above_base, and not both"),
            ({"at_most": math.nan}, "at_most must be a finite number"),
            ({"at_most": 1.0, "gain": -1.0}, "gain must be a finite number of at least 0"),
            ({"at_most": 1.0, "low": 2.0}, "low and high must lie around 1"),
        ],
    )
    def test_a_wrong_target_is_refused(self, options, message):
        with pytest.raises(ValueError, match=message):
            Target("desperate", **options)

    def test_a_target_without_a_penalty_to_steer_is_refused(self, tiny_llama):
        vectors = random_vectors(tiny_llama())
        for penalties in ([], [Hinge("calm")], [Hinge("desperate", weight=0.0)]):
            with pytest.raises(ValueError, match="target is of 'desperate', which no Hinge or Band with a weight"):
                Regularizer(vectors, penalties, target=Target("desperate", at_most=0.0))

    def test_one_given_as_a_schedule_is_taken_as_in_0_1_with_a_word(self, tiny_llama):
        target = Target("desperate", at_most=0.0)
        with pytest.warns(FutureWarning, match="pass a Target as target="):
            assert Regularizer(random_vectors(tiny_llama()), [Hinge("desperate")], schedule=target).target == target

    def test_a_schedule_beside_a_target_is_refused(self, tiny_llama):
        with pytest.raises(ValueError, match="give a schedule or a target, not both"):
            Regularizer(
                random_vectors(tiny_llama()),
                [Hinge("desperate")],
                schedule=constant(),
                target=Target("desperate", at_most=0.0),
            )


class TestInATrainer:
    def test_the_base_is_that_of_the_first_steps_batches_before_weights_change(
        self, tiny_llama, tiny_tokenizer, tmp_path
    ):
        model, rows = tiny_llama(), uneven_rows(4)
        vectors = random_vectors(model)
        trainer = sft_trainer(model, tiny_tokenizer, tmp_path, rows, max_steps=6, logging_steps=3, learning_rate=1e-3)
        penalties = default_penalties()
        target = Target("desperate", above_base=0.25)
        trainer.add_callback(
            RegularizerCallback(trainer, Regularizer(vectors, penalties, target=target, references="file"))
        )
        trainer.train()
        logs = [log for log in trainer.state.log_history if "emoreg/target/limit" in log]
        fresh, batch = tiny_llama(), padded(rows)
        with Regularizer(vectors).attach(fresh) as term:
            fresh(**batch)
            term.loss(batch)
            z = term.statistics.mean()
        mask = vectors.reference_mask
        neutral = torch.stack([row[m].mean(0) for row, m in [(vectors.reference_z[mask], slice(None))]])[0]
        expected = (z - neutral)[:, 0].mean().item() + 0.25
        assert [log["emoreg/target/limit"] for log in logs] == pytest.approx([expected] * 2, rel=1e-4)
        weights = [log["emoreg/hinge/desperate/weight"] for log in logs]
        assert weights[0] == pytest.approx(0.01)  # the first log only begins the search
        assert [log["emoreg/anchor/desperate/weight"] for log in logs] == pytest.approx([0.1, 0.1])
