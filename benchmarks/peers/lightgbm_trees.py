"""The boosted trees of benchmarks/trees.py by LightGBM, from the same rows on one thread; `make
peers` makes its environment.

OMP_NUM_THREADS=1 .venv-peers/bin/python benchmarks/peers/lightgbm_trees.py PEOPLE.npz OPTIONS
"""

from __future__ import annotations

import json
import sys
import time

import lightgbm
import numpy as np
from sklearn import metrics

people, options = np.load(sys.argv[1]), json.loads(sys.argv[2])
X, died = people["X"], people["died"]


def fit() -> lightgbm.Booster:
    rows = lightgbm.Dataset(X, died, params={"max_bin": options["bins"], "verbose": -1})
    settings = {
        "objective": "binary",
        "num_leaves": 2 ** options["depth"],
        "max_depth": options["depth"],
        "learning_rate": options["learning_rate"],
        "max_bin": options["bins"],
        "lambda_l2": options["l2"],
        "min_data_in_leaf": options["min_rows"],
        "num_threads": 1,
        "verbose": -1,
    }
    return lightgbm.train(settings, rows, options["trees"])


seconds, booster = [], None
for _ in range(3):
    begin = time.process_time()
    booster = fit()
    seconds.append(time.process_time() - begin)
print(json.dumps({"s": min(seconds), "auc": metrics.roc_auc_score(died, booster.predict(X))}))
