"""Streamed statistics against the same figures computed at once, in numpy."""

import json

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from emoreg.reading.statistics import BINS, HIGH, LOW, Statistics

EMOTIONS, LAYERS, THRESHOLDS = ("desperate", "calm"), (2, 5, 6), (0.5, -1.0)
BIN = (HIGH - LOW) / BINS


def batches(n=5, seed=0):
    make = torch.Generator().manual_seed(seed)
    for _ in range(n):
        B, T = (int(torch.randint(1, 7, (), generator=make)) for _ in range(2))
        z = [torch.randn(B, T, 2, generator=make) * 2 + row for row in range(len(LAYERS))]
        yield z, torch.rand(B, T, generator=make) < 0.6


def filled(**kwargs):
    statistics = Statistics(EMOTIONS, LAYERS, THRESHOLDS, torch.device("cpu"))
    for z, scope in batches(**kwargs):
        statistics.update(z, scope)
    return statistics


def test_figures_equal_those_of_all_positions_at_once():
    tables, _ = filled().read()
    inside = [(np.stack([layer[scope].numpy() for layer in z])) for z, scope in batches()]
    values = np.concatenate(inside, axis=1)  # layer, position, emotion
    expected = {
        "mean": values.mean(1), "sd": values.std(1), "max": values.max(1),
        "above": (values > np.array(THRESHOLDS)).mean(1),
    }  # fmt: skip
    for figure, table in expected.items():
        np.testing.assert_allclose(tables[figure].numpy(), table, rtol=1e-6, atol=1e-6, err_msg=figure)


def test_p95_is_within_a_bin_of_the_exact_one():
    make = torch.Generator().manual_seed(0)
    statistics = Statistics(EMOTIONS, LAYERS, THRESHOLDS, torch.device("cpu"))
    z = [torch.randn(20, 200, 2, generator=make) for _ in LAYERS]
    statistics.update(z, torch.ones(20, 200).bool())
    exact = np.stack([np.quantile(layer.flatten(0, 1).numpy(), 0.95, axis=0) for layer in z])
    np.testing.assert_allclose(statistics.read()[0]["p95"].numpy(), exact, atol=BIN)


def test_order_and_cutting_do_not_matter():
    whole, _ = filled().read()
    statistics = Statistics(EMOTIONS, LAYERS, THRESHOLDS, torch.device("cpu"))
    for z, scope in reversed(list(batches())):
        for row in range(len(scope)):
            statistics.update([layer[row : row + 1] for layer in z], scope[row : row + 1])
    for figure, table in statistics.read()[0].items():
        torch.testing.assert_close(table, whole[figure], rtol=1e-9, atol=1e-9)


def test_values_outside_the_scope_do_not_matter_even_nan():
    spoiled = Statistics(EMOTIONS, LAYERS, THRESHOLDS, torch.device("cpu"))
    for z, scope in batches():
        spoiled.update([torch.where(scope[..., None], layer, torch.nan) for layer in z], scope)
    for figure, table in spoiled.read()[0].items():
        assert torch.equal(table, filled().read()[0][figure]), figure


def test_nan_inside_the_scope_shows():
    statistics = filled()
    statistics.update([torch.full((1, 1, 2), torch.nan)] * 3, torch.ones(1, 1).bool())
    tables = statistics.read()[0]
    assert all(tables[figure].isnan().all() for figure in ("mean", "sd", "max"))


def test_a_layer_costs_thirteen_calls_over_all_positions():
    """Each is a pass over memory, and on an accelerator a launch: with many emotions they are what statistics cost."""
    z, scope = torch.randn(4, 256, 2), torch.ones(4, 256).bool()  # more than the histogram has
    large = []

    class Large(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            tensors = [t for t in (*args, found) if isinstance(t, torch.Tensor)]
            if not function.is_view and max(t.numel() for t in tensors) >= z.numel():
                large.append(function.overloadpacket.__name__)
            return found

    statistics = Statistics(EMOTIONS, LAYERS[:1], THRESHOLDS, torch.device("cpu"))
    with Large():
        statistics.update([z], scope)
    assert len(large) == 13, large


def test_an_empty_scope_gives_no_tables():
    statistics = Statistics(EMOTIONS, LAYERS, THRESHOLDS, torch.device("cpu"))
    statistics.update([torch.zeros(1, 3, 2)] * 3, torch.zeros(1, 3).bool())
    assert statistics.read() == ({}, {})


def test_named_numbers_are_averaged_and_reset():
    statistics = filled()
    for value in (1.0, torch.tensor(2.0), 6.0):
        statistics.add("term", value)
    assert statistics.read()[1] == {"term": pytest.approx(3.0)}
    statistics.reset()
    assert statistics.read() == ({}, {})


def test_forgetting_values_keeps_the_names_of_numbers():
    """Ranks add numbers up by their order, so each must have the same ones."""
    statistics = filled()
    statistics.add("term", 3.0)
    statistics.count("skipped", 2.0)
    statistics.forget_values()
    assert statistics.read() == ({}, {"term": 0.0, "skipped": 0.0})
    statistics.add("term", 5.0)
    assert statistics.read()[1]["term"] == pytest.approx(5.0)


def test_it_goes_on_from_its_state_exactly():
    statistics, other = filled(), Statistics(EMOTIONS, LAYERS, THRESHOLDS, torch.device("cpu"))
    statistics.add("term", 0.1, weight=0.3)
    statistics.count("skipped", 2.0)
    other.load_state(json.loads(json.dumps(statistics.state())))
    (ours, numbers), (theirs, their_numbers) = other.read(), statistics.read()
    assert numbers == their_numbers
    assert all(torch.equal(ours[figure], theirs[figure]) for figure in theirs)


def test_a_state_of_other_layers_is_refused():
    other = Statistics(EMOTIONS, LAYERS[:-1], THRESHOLDS, torch.device("cpu"))
    with pytest.raises(ValueError, match="resume with the vectors, layers and emotions that the run began with"):
        other.load_state(filled().state())
