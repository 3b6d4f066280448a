"""Made-up people known to two holders, with typos, moves, other surnames and wrong dates at one of
them.

The rates are those of LINKAGE 7: 2 % day, 1 % month, 1 % year, 10 % commune, 5 % and 4 % typos in
the surname and first name, 3 % another surname, 0.5 % sex; 90 % of the left are at the right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from federation.linkage import pseudonyms

STEPS = (
    ("surname", "first", "birth", "sex", "commune"),
    ("surname", "first", "birth", "sex"),
    ("sound", "first", "birth", "sex", "department"),
    ("first", "birth", "sex", "commune"),
    ("surname", "birth", "commune"),
    ("surname", "first", "year", "month", "sex", "commune"),
    ("surname", "first", "day", "month", "sex", "commune"),
    ("surname", "first", "year", "day", "sex", "commune"),
)
CONSONANTS, VOWELS = "bcdfgjlmnprstv", "aeiou"


@dataclass(frozen=True)
class TwoLists:
    """`truth` (n_left,): the right's row of each person of the left; -1 for nobody."""

    left: dict[str, np.ndarray]
    right: dict[str, np.ndarray]
    truth: np.ndarray


def spelled(rng, n: int, syllables: int) -> np.ndarray:
    """(n, 2 * syllables) letters."""
    consonants = rng.choice(list(CONSONANTS.encode()), (n, syllables))
    vowels = rng.choice(list(VOWELS.encode()), (n, syllables))
    return np.stack([consonants, vowels], axis=2).reshape(n, -1).astype(np.uint8)


def zipf(rng, kinds: int, n: int, flat: int) -> np.ndarray:
    weight = 1 / (np.arange(1, kinds + 1) + flat)
    return rng.choice(kinds, n, p=weight / weight.sum())


def make(n_left: int, n_right: int, seed: int = 5) -> TwoLists:
    rng = np.random.default_rng(seed)
    surnames, firsts = spelled(rng, 60_000, 4), spelled(rng, 1500, 3)
    everyone = n_left + n_right
    people = {
        "surname": surnames[zipf(rng, 60_000, everyone, 60)],
        "first": firsts[zipf(rng, 1500, everyone, 10)],
        "day": rng.integers(1, 29, everyone),
        "month": rng.integers(1, 13, everyone),
        "year": rng.integers(1925, 2015, everyone),
        "sex": rng.integers(1, 3, everyone),
        "commune": zipf(rng, 30_000, everyone, 100),
    }
    order = rng.permutation(n_right)
    truth = np.where(rng.random(n_left) < 0.9, rng.choice(n_right, n_left, replace=False), -1)
    chosen = np.where(truth >= 0, order[truth], n_right + np.arange(n_left))
    left = {name: values[chosen].copy() for name, values in people.items()}
    _mistaken(rng, left, surnames)
    right = {name: values[order] for name, values in people.items()}
    return TwoLists(_with_parts(left), _with_parts(right), truth)


def _mistaken(rng, side: dict[str, np.ndarray], surnames: np.ndarray) -> None:
    n = len(side["sex"])
    for name, share in (("surname", 0.05), ("first", 0.04)):
        wrong = np.flatnonzero(rng.random(n) < share)
        at = rng.integers(0, side[name].shape[1], len(wrong))
        side[name][wrong, at] = rng.integers(97, 123, len(wrong))
    married = rng.random(n) < 0.03
    side["surname"][married] = surnames[rng.integers(0, 60_000, married.sum())]
    wrong_numbers = {"day": (0.02, 1, 29), "month": (0.01, 1, 13), "commune": (0.1, 0, 30_000)}
    for name, (share, low, high) in wrong_numbers.items():
        wrong = rng.random(n) < share
        side[name][wrong] = rng.integers(low, high, wrong.sum())
    wrong = rng.random(n) < 0.01
    side["year"][wrong] += rng.choice([-1, 1, 10, -10], wrong.sum())
    wrong = rng.random(n) < 0.005
    side["sex"][wrong] = 3 - side["sex"][wrong]


def _with_parts(side: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    consonants = side["surname"][:, ::2]
    birth = side["year"] * 372 + side["month"] * 31 + side["day"]
    return side | {"sound": consonants, "birth": birth, "department": side["commune"] // 300}


def blocks(values: np.ndarray) -> np.ndarray:
    """(n, 16) blocks of whole numbers, or of letters."""
    table = np.zeros((len(values), 16), np.uint8)
    if values.ndim == 1:
        table.view(np.uint64)[:, 0] = values
    else:
        table[:, : values.shape[1]] = values
    return table


def names(side: dict[str, np.ndarray], key: bytes, steps) -> np.ndarray:
    """(n, k, 2) pseudonyms of the composite keys."""
    by_name = {name: blocks(values) for name, values in side.items()}
    columns = [
        pseudonyms.of_fields(key, number, [by_name[name] for name in fields])
        for number, fields in enumerate(steps)
    ]
    return np.stack(columns, axis=1)
