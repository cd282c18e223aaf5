"""Torture: everything that must survive, tried at length. ``make torture`` runs it all and records the figures.

Each module has a function ``torture`` that does its part and returns JSON-ready figures, ``faults`` tried and
``survived`` among them; an `AssertionError` says what did not survive. The tests run the same functions, seconds each.
The tiny networks and nasty files are those of the tests.
"""

import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[2] / "tests"
if str(TESTS) not in sys.path:
    sys.path.insert(0, str(TESTS))
