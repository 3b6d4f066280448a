"""The fits of benchmarks/levels.py by pyfixest, R's fixest in Python, on one thread; `make peers`
makes its environment.

OMP_NUM_THREADS=1 .venv-peers/bin/python benchmarks/peers/fixest_levels.py PEOPLE.npz
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas
import pyfixest

people = pandas.DataFrame(dict(np.load(sys.argv[1])))
RIGHT = "x0 + x1 + x2 + x3 + x4 | site"
FITS: dict[str, Callable[[], Any]] = {
    "gaussian": lambda: pyfixest.feols(f"y ~ {RIGHT}", people, vcov="iid"),
    "binomial": lambda: pyfixest.feglm(f"died ~ {RIGHT}", people, family="logit", vcov="iid"),
    "poisson": lambda: pyfixest.fepois(f"n ~ {RIGHT}", people, vcov="iid"),
}

figures: dict[str, float] = {}
for family, fit in FITS.items():
    slopes = fit().coef()  # the first fit compiles
    figures |= {f"{family} {name}": float(value) for name, value in slopes.items()}
    seconds = []
    for _ in range(3):
        begin = time.process_time()
        fit()
        seconds.append(time.process_time() - begin)
    figures[family] = min(seconds)
print(json.dumps(figures))
