"""Schedules: optimizer step to factor."""

from itertools import pairwise

import pytest

from emoreg.regularizer.schedules import constant, cosine, linear


class TestSchedules:
    def test_constant_is_one(self):
        assert [constant()(step) for step in (0, 7, 10**6)] == [1.0, 1.0, 1.0]

    @pytest.mark.parametrize("shape", [linear, cosine])
    def test_rises_stays_and_falls(self, shape):
        factor = shape(4, 14)
        values = [factor(step) for step in range(16)]
        assert 0 < values[0] < values[1] < values[2] < values[3] == 1.0
        assert values[4] == 1.0
        assert all(a > b for a, b in pairwise(values[4:15]))
        assert values[9] == pytest.approx(0.5)
        assert values[14:] == [0.0, 0.0]

    def test_without_decay_it_stays(self):
        assert [linear(2)(step) for step in (0, 1, 2, 999)] == [0.5, 1.0, 1.0, 1.0]

    def test_linear_by_hand(self):
        assert [linear(2, 6)(step) for step in range(7)] == [0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]

    @pytest.mark.parametrize("make", [linear, cosine])
    @pytest.mark.parametrize(("warmup", "total"), [(-1, None), (4, 4), (0, 0)])
    def test_impossible_ones_are_refused(self, make, warmup, total):
        with pytest.raises(ValueError, match="_steps must be a whole number"):
            make(warmup, total)
