"""``python -m emoreg`` is ``emoreg``."""

from emoreg.cli import main

main()
