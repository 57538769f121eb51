"""A world, a corpus and a tiny model on which all of emoreg runs anywhere in minutes."""

from emoreg.sandbox.demo import run_demo
from emoreg.sandbox.judgement import Judgement, extract_vectors, judge
from emoreg.sandbox.organism import load
from emoreg.sandbox.world import EMOTIONS, SHORTCUT_RATES

__all__ = ["EMOTIONS", "SHORTCUT_RATES", "Judgement", "extract_vectors", "judge", "load", "run_demo"]
