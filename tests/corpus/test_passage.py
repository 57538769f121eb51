"""A text that is read from a character on, and stays so."""

import copy
import pickle

from emoreg.corpus import Passage, Reply, read_from


def test_it_is_a_text_that_knows_where_it_is_read_from():
    passage = Passage("They ask for more time. No.", 24)
    assert passage == "They ask for more time. No."
    assert passage[read_from(passage) :] == "No."
    assert read_from("They ask.") == 0
    assert read_from(Reply("They ask. No.", 10)) == 10


def test_copies_know_it_too():
    for passage in (Passage("abc", 1), Reply("abc", 1)):
        for other in (copy.copy(passage), copy.deepcopy(passage), pickle.loads(pickle.dumps(passage))):
            assert (type(other), other, other.read_from) == (type(passage), "abc", 1)
