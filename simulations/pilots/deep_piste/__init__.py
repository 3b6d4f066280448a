"""Deep.Piste (breast-cancer screening): can a network sort mammograms so that fewer women are
called back, and fewer cancers missed?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray
from scipy import special

from federation.arrays import Floats
from federation.contract import Contract
from simulations.pilots import common
from simulations.pilots.common import Main, Size

NOTE = (
    "synthetic views with planted lesions; each centre's machine has its own brightness and noise;"
    " cancers are far more frequent than in screening"
)
LINKED_NOTE = (
    "synthetic women screened: the screening centres hold the readings, SNDS the later cancers,"
    " which are more frequent than in screening"
)
REAL_NOTE = (
    "1,797 real images of written digits (scikit-learn),"
    " split over four nodes in their original order: is it an eight?"
)
SIZES: Mapping[Size, int] = {"small": 800, "full": 62_500}  # women, of four views each
PIXELS: Mapping[Size, int] = {"small": 32, "full": 64}
PRIVATE_WOMEN = 4_000
LINKED_SIZES: Mapping[Size, int] = {"small": 40_000, "full": 250_000}
KNOWN_SHARE = 0.97  # of the women, the share that SNDS knows
NODES = {"crcdc-bretagne": 0.2, "crcdc-grand-est": 0.2, "crcdc-occitanie": 0.35, "crcdc-paca": 0.25}
HOLDS = {**dict.fromkeys(NODES, "lectures"), "cnam": "cancers"}
VIEWS = ("cc_droit", "mlo_droit", "cc_gauche", "mlo_gauche")
AUC = ("auc", "conf_low", "conf_high")
MAIN = {
    "study": Main("area under the ROC curve", "lecture", "glance", columns=AUC),
    "private": Main("area under the ROC curve", "lecture", "glance", columns=AUC),
    **dict.fromkeys(
        ("linked", "linked-private"),
        Main(
            "log-odds of a missed cancer in a dense breast",
            "manques",
            where={"term": "dense"},
            truth="dense_log_odds",
        ),
    ),
    "real": Main("area under the ROC curve, an eight", "lecture", "glance", columns=AUC),
}
Images = NDArray[np.uint8]


def contract(agreed: Contract, size: Size) -> Contract:
    """The contract with the image shape of this size."""
    if "image" not in agreed.columns or agreed.dataset != "mammographies":
        return agreed
    image = agreed.columns["image"].model_copy(update={"shape": (PIXELS[size], PIXELS[size])})
    return agreed.model_copy(update={"columns": {**agreed.columns, "image": image}})


def make(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    return _make(directory, seed, SIZES[size], PIXELS[size])


def make_private(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    """More women than in the other small study, because the noise hides one woman and matters less
    among many."""
    return _make(directory, seed, max(SIZES[size], PRIVATE_WOMEN), PIXELS[size])


def _make(directory: Path, seed: int, women: int, pixels: int) -> dict[str, Path]:
    """One centre after the other, a few thousand views at a time."""
    planted, rng = common.truth(__file__), np.random.default_rng([seed, 9])
    paths: dict[str, Path] = {}
    for number, (node, share) in enumerate(NODES.items()):
        frames = []
        for first in range(0, n := round(women * share), 2_000):
            frames.append(
                _women(rng, min(2_000, n - first), f"{node}-{first}", pixels, planted, number)
            )
        paths |= common.write({node: pandas.concat(frames, ignore_index=True)}, directory)
    return paths


def _women(
    rng: np.random.Generator,
    n: int,
    prefix: str,
    pixels: int,
    planted: Mapping[str, Any],
    machine: int,
) -> pandas.DataFrame:
    cancer, density = (
        rng.random(n) < planted["share_of_cancers"],
        rng.choice(4, n, p=[0.1, 0.4, 0.4, 0.1]),
    )
    side = rng.integers(0, 2, n)
    shows = np.zeros((n, len(VIEWS)), np.bool_)  # both views of one side
    shows[np.arange(n), 2 * side] = shows[np.arange(n), 2 * side + 1] = True
    images = views(
        rng,
        (shows & cancer[:, None]).ravel(),
        np.repeat(density, len(VIEWS)),
        pixels,
        planted,
        machine,
    )
    return pandas.DataFrame(
        {
            "femme": np.repeat([f"{prefix}-{i}" for i in range(n)], len(VIEWS)),
            "vue": np.tile(VIEWS, n),
            "age": np.repeat(np.clip(rng.normal(61, 7, n), 50, 74).round(), len(VIEWS)),
            "densite": np.repeat(np.array(["a", "b", "c", "d"])[density], len(VIEWS)),
            "cancer": np.repeat(cancer, len(VIEWS)),
            "image": [image.tobytes() for image in images],
        }
    )


def views(
    rng: np.random.Generator,
    lesion: NDArray[np.bool_],
    density: NDArray[np.int64],
    pixels: int,
    planted: Mapping[str, Any],
    machine: int,
) -> Images:
    """(n, pixels, pixels): tissue of waves and grain, where a lesion is a bright spot of the
    planted radius and contrast."""
    n, at = len(lesion), np.linspace(0, 1, pixels, dtype=np.float32)
    waves = [_waves(rng, n, at) for _ in range(2)]
    tissue = np.einsum("nkx,nky->nxy", *waves, optimize=True) * (
        8 + 4 * density[:, None, None]
    ).astype(np.float32)
    grain = rng.standard_normal((n, pixels, pixels), dtype=np.float32) * np.float32(
        planted["grain"] * (1 + 0.15 * machine)
    )
    value = 90 + 12 * machine + tissue + grain
    centre = rng.uniform(0.2, 0.8, (2, n, 1)).astype(np.float32)
    spots = [
        np.exp(-0.5 * ((at - middle) / np.float32(planted["radius"])) ** 2) for middle in centre
    ]
    height = np.where(lesion, planted["contrast"] * rng.uniform(0.6, 1.4, n), 0.0).astype(
        np.float32
    )
    value += height[:, None, None] * spots[0][:, :, None] * spots[1][:, None, :]
    images: Images = np.clip(value, 0, 255).astype(np.uint8)
    return images


def _waves(rng: np.random.Generator, n: int, at: NDArray[np.float32]) -> NDArray[np.float32]:
    frequency, phase = (
        rng.uniform(1, 6, (n, 4, 1)).astype(np.float32),
        rng.uniform(0, 6.3, (n, 4, 1)).astype(np.float32),
    )
    waves: NDArray[np.float32] = np.cos(frequency * at + phase)
    return waves


def make_linked(directory: Path, *, seed: int, size: Size = "small") -> dict[str, Path]:
    """The readings, and the cancers that SNDS learns of within two years: among all women, those
    who were read as healthy too."""
    rng, n = np.random.default_rng([seed, 91]), LINKED_SIZES[size]
    planted = common.truth(__file__)
    nir, dense = common.nirs(rng, n), rng.random(n) < 0.5
    cancer = rng.random(n) < planted["share_of_linked_cancers"]
    missed = special.expit(planted["missed_log_odds"] + planted["dense_log_odds"] * dense)
    called = rng.random(n) < np.where(cancer, 1 - missed, 0.05)
    readings = pandas.DataFrame(
        {
            "femme": np.char.add("f", np.arange(n).astype(str)),
            "nir": nir,
            "age": np.clip(rng.normal(61, 7, n), 50, 74).round(),
            "dense": dense,
            "rappel": called,
        }
    )
    is_known = rng.random(n) < KNOWN_SHARE
    snds = common.shuffled(
        rng,
        _care(rng, nir[is_known], cancer[is_known]),
        _care(rng, common.strangers(nir), rng.permutation(cancer)),
    )
    centres = common.by_node(readings, common.spread(rng, n, NODES))
    return common.write(centres | {"cnam": snds}, directory)


def _care(
    rng: np.random.Generator, nir: common.Texts, cancer: NDArray[np.bool_]
) -> pandas.DataFrame:
    """Other care of everybody, and the treatment of a cancer."""
    month = rng.integers(0, 25, len(nir))
    care = pandas.DataFrame({"beneficiaire": nir, "mois": month, "cancer": False})
    return pandas.concat([care, care[cancer].assign(cancer=True)])


def make_real(directory: Path) -> dict[str, Path]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images: Floats = digits.images
    table = pandas.DataFrame(
        {
            "numero": [f"i{i}" for i in range(len(images))],
            "huit": digits.target == 8,
            "image": [image.astype(np.uint8).tobytes() for image in images],
        }
    )
    node = np.array(list(NODES))[np.arange(len(table)) * 4 // len(table)]
    return common.write(common.by_node(table, node), directory)
