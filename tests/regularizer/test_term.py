"""A term's steps: what begins and ends one, what a resumed run knows, and which passes it keeps."""

import json

import pytest
import torch

from emoreg import Regularizer, default_penalties
from tests.support import padded, random_vectors, uneven_rows


@pytest.fixture
def model(tiny_llama):
    return tiny_llama()


def empty(batch):
    return batch | {"labels": torch.full_like(batch["labels"], -100)}


class TestAfterAResume:
    """What an unbroken run takes, a resumed one takes: a later step without a position, under a monitor, is chance."""

    def test_a_step_without_a_position_goes_on(self, model):
        batch = padded(uneven_rows(4))
        with Regularizer(random_vectors(model)).attach(model) as unbroken:
            model(**batch)
            unbroken.loss(batch, step=0, last=True)
            state = json.loads(json.dumps(unbroken.state()))
            model(**empty(batch))
            unbroken.loss(empty(batch), step=1, last=True)
        with Regularizer(random_vectors(model)).attach(model) as resumed:
            resumed.load_state(state)
            model(**empty(batch))
            resumed.loss(empty(batch), step=1, last=True)
            assert torch.equal(resumed.statistics.mean(), unbroken.statistics.mean())

    def test_the_first_step_of_all_is_refused(self, model):
        batch = empty(padded(uneven_rows(4)))
        with Regularizer(random_vectors(model)).attach(model) as term:
            model(**batch)
            with pytest.raises(ValueError, match="the regularizer's scope 'completion' selects no position"):
                term.loss(batch)

    def test_other_penalised_emotions_are_refused(self, model):
        with Regularizer(random_vectors(model)).attach(model) as watched:
            state = json.loads(json.dumps(watched.state()))
        with (
            Regularizer(random_vectors(model), default_penalties()).attach(model) as term,
            pytest.raises(ValueError, match=r"penalised nothing, and this one penalises \['desperate'\]"),
        ):
            term.load_state(state)


class TestSteps:
    def test_anchors_join_once_a_step(self, model):
        batch = padded(uneven_rows(4))
        vectors = random_vectors(model)
        with Regularizer(vectors, default_penalties(hinge=0.0)).attach(model) as term:
            found = []
            for step in (0, 0, 4, 4):
                model(**batch)
                found.append(term.loss(batch, step=step).item())
            assert [value > 0 for value in found] == [True, False, True, False]

    def test_apart_they_are_left_to_whoever_begins_the_step(self, model):
        batch = padded(uneven_rows(4))
        with Regularizer(random_vectors(model), default_penalties(hinge=0.0)).attach(model) as term:
            term.prepare(distributed=False, scaler=None, anchors_apart=True)
            assert term.begin_step(0)
            assert not term.begin_step(0)
            assert term.anchors(0).item() > 0
            with term.reading("train"):
                model(**batch)
                assert term.loss(batch, step=0).item() == 0


def test_once_prepared_only_passes_inside_reading_are_kept(model):
    batch = padded(uneven_rows(4))
    with Regularizer(random_vectors(model)).attach(model) as term:
        term.prepare(distributed=False, scaler=None, anchors_apart=False)
        model(**batch)
        with pytest.raises(ValueError, match="saw none"):
            term.reader.take()
