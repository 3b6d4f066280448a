"""Makes people.csv, the synthetic table of the oracle tests: `python tests/oracle/make_people.py`
(seed fixed)."""

from pathlib import Path

import numpy as np

rng = np.random.default_rng(20261124)
n = 600
# a person is at one node
site = np.repeat(rng.choice(["ansm", "curie", "limoges", "spf"], n, p=[0.4, 0.3, 0.2, 0.1])[::2], 2)
age = np.round(rng.normal(60, 12, n).clip(20, 95), 1)
dose = np.round(rng.gamma(2.0, 1.5, n).clip(0.1, 20), 2)
sex = rng.choice(["f", "m"], n)
arm = rng.choice(["a", "b", "c"], n, p=[0.5, 0.3, 0.2])
eta = 0.03 * (age - 60) - 0.1 * dose + 0.4 * (sex == "m") + 0.5 * (arm == "c")
start = rng.integers(0, 6, n)
length = np.ceil(rng.exponential(12 / np.exp(eta))).clip(1, 40).astype(int)
censor = rng.integers(1, 30, n)
stop = start + np.minimum(length, censor)
event = (length <= censor).astype(int)
weight = np.round(rng.uniform(0.3, 3.0, n), 3)
score = np.round(10 + 0.1 * age - 0.5 * dose + 2 * (sex == "m") + rng.normal(0, 3, n), 3)
exposure = np.round(rng.uniform(0.2, 5, n), 3)
visits = rng.poisson(exposure * np.exp(0.2 * eta))
died = (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(int)
person = np.arange(n) // 2  # two rows each, for the robust variance
names = "person,site,age,dose,sex,arm,start,stop,event,weight,score,exposure,visits,died"
columns = (
    person,
    site,
    age,
    dose,
    sex,
    arm,
    start,
    stop,
    event,
    weight,
    score,
    exposure,
    visits,
    died,
)
rows = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
for i in rng.choice(n, 15, replace=False):  # some ages are not known
    cells = rows[i].split(",")
    cells[2] = ""
    rows[i] = ",".join(cells)
(Path(__file__).parent / "people.csv").write_text("\n".join([names, *rows]) + "\n")
