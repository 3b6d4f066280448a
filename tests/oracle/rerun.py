"""`make oracle`: runs the recipes again and compares with the committed numbers; exits 1 if R's
numbers have changed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import pandas

from simulations.pilots import deepsarc, dialysis, parcours_idm, rexetris

HERE = Path(__file__).parent


def main() -> None:
    if not shutil.which("Rscript"):
        sys.exit(
            "no Rscript on this machine: apt-get install r-base-core r-cran-survival r-cran-cmprsk"
            " r-cran-gnm r-cran-lme4 r-cran-surveillance r-cran-epitools r-cran-metafor r-cran-mice"
        )
    with tempfile.TemporaryDirectory() as folder:
        tables = real_tables(Path(folder))
        compare("recipe.R", "expected.json", str(tables["dialysis"]))
        compare(
            "vocabulary.R",
            "vocabulary.json",
            *(str(tables[name]) for name in ("divat", "oropharynx", "trace")),
        )


def _trace(folder: Path) -> dict[str, Path]:
    """In one place: the pilot gives the deaths to another node."""
    path = folder / "whole.csv"
    parcours_idm.trace().to_csv(path, index=False)
    return {"whole": path}


def real_tables(folder: Path) -> dict[str, Path]:
    """The pilots' real data, pooled."""
    makers = {
        "dialysis": partial(dialysis.make, seed=0),
        "divat": rexetris.make_real,
        "oropharynx": deepsarc.make_real,
        "trace": _trace,
    }
    pooled = {}
    for name, make in makers.items():
        (folder / name).mkdir()
        paths = make(folder / name)
        tables = [
            pandas.read_csv(path) if path.suffix == ".csv" else duckdb.read_parquet(str(path)).df()
            for path in paths.values()
        ]
        pooled[name] = folder / f"{name}.csv"
        pandas.concat(tables).to_csv(pooled[name], index=False)
    return pooled


def compare(recipe: str, numbers: str, *arguments: str) -> None:
    done = subprocess.run(
        ["Rscript", str(HERE / recipe), *arguments], capture_output=True, text=True, check=True
    )
    numbers_, expected = json.loads(done.stdout), json.loads((HERE / numbers).read_text())
    assert numbers_.keys() == expected.keys()
    for entry, values in expected.items():
        for name, value in values.items():
            # 1e-10: the order of the rows moves R's own last bits
            np.testing.assert_allclose(
                np.array(numbers_[entry][name], float),
                np.array(value, float),
                rtol=1e-10,
                atol=1e-12,
                err_msg=f"{entry}.{name}",
            )
    print(
        f"R agrees with {numbers} on {sum(map(len, expected.values()))} entries of {len(expected)}"
        " fits"
    )


if __name__ == "__main__":
    main()
