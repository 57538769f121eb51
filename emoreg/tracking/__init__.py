"""What a term found: a record of it, and the flat names under which trainers log it."""

from emoreg.tracking.alarm import GapAlarm
from emoreg.tracking.names import flat, is_ours, shown_on_console
from emoreg.tracking.record import Record

__all__ = ["GapAlarm", "Record", "flat", "is_ours", "shown_on_console"]
