"""Deep.Piste (breast-cancer screening): can a network sort mammograms so that fewer women are
called back, and fewer cancers missed?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas
from numpy.typing import NDArray

from federation.arrays import Floats
from federation.contract import Contract
from simulations.pilots import common
from simulations.pilots.common import Main, Size

NOTE = (
    "synthetic views with planted lesions; each centre's machine has its own brightness and noise;"
    " cancers are far more frequent than in screening"
)
REAL_NOTE = (
    "1,797 real images of written digits (scikit-learn),"
    " split over four nodes in their original order: is it an eight?"
)
SIZES: Mapping[Size, int] = {"small": 800, "full": 62_500}  # women, of four views each
PIXELS: Mapping[Size, int] = {"small": 32, "full": 64}
PRIVATE_WOMEN = 4_000
NODES = {"crcdc-bretagne": 0.2, "crcdc-grand-est": 0.2, "crcdc-occitanie": 0.35, "crcdc-paca": 0.25}
VIEWS = ("cc_droit", "mlo_droit", "cc_gauche", "mlo_gauche")
AUC = ("auc", "conf_low", "conf_high")
MAIN = {
    "study": Main("area under the ROC curve", "lecture", "glance", columns=AUC),
    "private": Main("area under the ROC curve", "lecture", "glance", columns=AUC),
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
    made: Images = np.clip(value, 0, 255).astype(np.uint8)
    return made


def _waves(rng: np.random.Generator, n: int, at: NDArray[np.float32]) -> NDArray[np.float32]:
    frequency, phase = (
        rng.uniform(1, 6, (n, 4, 1)).astype(np.float32),
        rng.uniform(0, 6.3, (n, 4, 1)).astype(np.float32),
    )
    waves: NDArray[np.float32] = np.cos(frequency * at + phase)
    return waves


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
