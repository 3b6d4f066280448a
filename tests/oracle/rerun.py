"""`make oracle`: runs recipe.R again and compares with expected.json; exits 1 if R says something else now."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas

from simulations.pilots import dialysis

HERE = Path(__file__).parent


def main() -> None:
    if not shutil.which("Rscript"):
        sys.exit("no Rscript on this machine: apt-get install r-base-core r-cran-survival")
    with tempfile.TemporaryDirectory() as folder:
        tables = [pandas.read_csv(path) for path in dialysis.make(Path(folder), seed=0).values()]
        pooled = Path(folder) / "dialysis.csv"
        pandas.concat(tables).to_csv(pooled, index=False)
        done = subprocess.run(["Rscript", str(HERE / "recipe.R"), str(pooled)], capture_output=True, text=True, check=True)
    found, expected = json.loads(done.stdout), json.loads((HERE / "expected.json").read_text())
    assert found.keys() == expected.keys()
    for entry, numbers in expected.items():
        for name, value in numbers.items():
            # 1e-10: the order of the rows moves R's own last bits
            np.testing.assert_allclose(np.array(found[entry][name], float), np.array(value, float), rtol=1e-10, atol=1e-12, err_msg=f"{entry}.{name}")
    print(f"R agrees with expected.json on {sum(len(numbers) for numbers in expected.values())} entries of {len(expected)} fits")


if __name__ == "__main__":
    main()
