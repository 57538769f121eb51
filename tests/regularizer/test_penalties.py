"""Penalties as functions of z."""

import math

import pytest
import torch

from emoreg import Anchor, Band, Hinge, default_penalties

Z = torch.tensor([-2.0, -0.5, 0.0, 0.5, 3.0])


def test_hinge_is_zero_below_its_threshold_and_squared_above():
    assert Hinge("desperate", threshold=0.5)(Z).tolist() == [0, 0, 0, 0, 6.25]


def test_band_is_zero_inside_and_squared_outside():
    assert Band("desperate", low=-1.0, high=0.5)(Z).tolist() == [1, 0, 0, 0, 6.25]


def test_anchor_is_the_squared_distance_from_the_base():
    assert Anchor("desperate")(Z, Z - 2).tolist() == [4.0] * 5


@pytest.mark.parametrize("penalty", [Hinge("x", threshold=-0.1), Band("x", low=-0.3, high=0.2)])
def test_gradients_are_those_of_finite_differences(penalty):
    z = torch.randn(50, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(penalty, z)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hinge("desperate", weight=-1.0), "weight must be a finite number of at least 0, got -1.0"),
        (lambda: Hinge("desperate", weight=math.nan), "weight must be a finite number"),
        (lambda: Hinge("desperate", threshold=math.inf), "threshold must be a finite number"),
        (lambda: Hinge(""), "emotion must be a name"),
        (lambda: Hinge("desperate", scope="replies"), "unknown scope 'replies'"),
        (lambda: Band("desperate", low=1.0, high=1.0), "low must be below high"),
        (lambda: Anchor("desperate", every=0), "every must be a whole number of at least 1, got 0"),
        (lambda: Anchor("desperate", texts=0), "texts must be a whole number"),
    ],
)
def test_wrong_settings_are_refused_by_name(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_default_set_is_an_anchored_hinge():
    hinge, anchor = default_penalties("angry", hinge=0.5, anchor=0.25)
    assert (hinge.name, hinge.weight, anchor.name, anchor.weight) == ("hinge/angry", 0.5, "anchor/angry", 0.25)
