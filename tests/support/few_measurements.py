"""`speedtrain.bench.measure` with few rounds, one width and two tricks: what it measures is not the subject here."""

import sys
from pathlib import Path

from speedtrain.bench import measure

FEW = {"WIDTHS": (8,), "ROUNDS": 2, "PAIRS": 2, "CHUNK": 0.1, "LONG_ENOUGH": 0.01}

assert FEW.keys() <= vars(measure).keys()
vars(measure).update(FEW, TRICKS={name: measure.TRICKS[name] for name in ("flip", "muon")})
measure.main(*map(Path, sys.argv[1:]))
