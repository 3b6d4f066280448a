"""The people of a cohort's rows, as the rules of disclosure compare them: by fingerprints, which
are sums of hashes of their keys.

Most answers are about all rows, whose fingerprint is found once for each version of a dataset's
files and noted. Hashes are therefore read only when some of the rows are told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from nodes import fingerprints
from nodes.checked_versions import CheckedVersions
from nodes.fingerprints import Words

Mask = NDArray[np.bool_]
MAX_PRINTS = 20  # salts whose fingerprint of all rows stays in memory


class People:
    """`read`: gives the hash of the person of each row (n_rows,). `version`: of the source whose
    rows these all are, as in checked_versions; None if they are a part of them, or if the rows may
    change without a sign. `prints`: by salt, the fingerprint of all of them, as far as it is known.
    Nodes of one process may share rows, and each has a salt of its own."""

    def __init__(
        self,
        read: Callable[[], Words],
        version: str | None = None,
        prints: Mapping[bytes, bytes] = MappingProxyType({}),
    ) -> None:
        self._read = read
        self._hashes: Words | None = None
        self._prints = dict(prints)
        self.version = version

    @classmethod
    def of(cls, hashes: Words) -> People:
        return cls(lambda: hashes)

    @property
    def hashes(self) -> Words:
        """(n_rows,)"""
        if self._hashes is None:
            self._hashes = self._read()
        return self._hashes

    def read(self) -> None:
        """Reads the hashes now: later, the files may be others."""
        _ = self.hashes

    def some(self, mask: Mask) -> People:
        """Those of the rows in a mask (n_rows,)."""
        return People(lambda: self.hashes[mask])

    def print_of_all(self, salt: bytes, notes: CheckedVersions | None = None) -> bytes:
        """The fingerprint of the people of all rows."""
        if salt not in self._prints:
            if len(self._prints) >= MAX_PRINTS:
                self._prints.clear()
            self._prints[salt] = self._noted(salt, notes)
        return self._prints[salt]

    def print_of(self, mask: Mask, salt: bytes, notes: CheckedVersions | None = None) -> bytes:
        """The fingerprint of the people of the rows in a mask (n_rows,): that of all, less that of
        the others if these are fewer."""
        n_others = len(mask) - int(np.count_nonzero(mask))
        if not n_others:
            return self.print_of_all(salt, notes)
        if 2 * n_others > len(mask):
            return fingerprints.fingerprint(self.hashes[mask], salt)
        others = fingerprints.fingerprint(self.hashes[~mask], salt)
        return fingerprints.less(self.print_of_all(salt, notes), others)

    def is_noted(self, notes: CheckedVersions) -> bool:
        return self.version is not None and notes.print_of(self.version) is not None

    def _noted(self, salt: bytes, notes: CheckedVersions | None) -> bytes:
        if notes is None or self.version is None or salt != notes.salt:
            return fingerprints.fingerprint(self.hashes, salt)
        noted = notes.print_of(self.version)
        if noted is None:
            noted = fingerprints.fingerprint(self.hashes, salt)
            notes.keep_print(self.version, noted)
        return noted
