"""``python -m emoreg.corpus``: what the corpus holds, and every breach of its rules; 1 if there are any."""

import sys

from emoreg.corpus import shipped as data
from emoreg.corpus.rules import breaches

PARTS = {
    "emotions": data.emotions(),
    "vignettes": data.vignettes(),
    "neutral": data.neutral_dialogues(),
    "pressure": data.pressure_scenarios(),
    "pressure_replies": data.pressure_replies(),
    "severity": data.severity_templates(),
}

for name, records in PARTS.items():
    print(f"{name:17}{len(records):4}")
found = breaches(**PARTS)
print(f"{'breaches':17}{len(found):4}", *found, sep="\n  ")
sys.exit(bool(found))
