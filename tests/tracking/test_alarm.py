"""The alarm that the reader gap opened."""

import logging

import torch

from emoreg.tracking import GapAlarm, Record


def heard(caplog, *gaps, figure="gap", emotions=("desperate",)):
    """The warnings of a run whose gap of "desperate" is these, log by log; calm's stays wide open."""
    alarm = GapAlarm()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        for step, gap in enumerate(gaps):
            table = torch.tensor([[gap - 0.1, 2.0], [gap + 0.1, 2.0]])
            alarm(Record("train", ("desperate", "calm"), (3, 5), {figure: table}, {}), emotions, step)
    return [one.getMessage() for one in caplog.records]


def test_it_is_quiet_while_the_gap_is_small(caplog):
    assert heard(caplog, 0.0, 0.29, -0.29) == []


def test_it_speaks_once_for_each_time_that_it_opens_and_says_which_way(caplog):
    said = heard(caplog, 0.1, 0.5, 0.6, 0.2, -0.5, -0.4, 0.7)
    assert [one.split(":")[0] for one in said] == ["step 1", "step 4", "step 6"]
    assert "0.50 z higher" in said[0]
    assert "0.50 z lower" in said[1]


def test_of_its_own_replies_too(caplog):
    assert "on its own replies" in heard(caplog, 0.5, figure="own_gap")[0]


def test_of_the_emotions_asked_for_alone(caplog):
    assert heard(caplog, 0.0, emotions=("desperate", "unknown")) == []
    assert "'calm'" in heard(caplog, 0.0, emotions=("calm",))[0]
