"""The arrays that the house adds up, by name."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Words = NDArray[np.uint64] | NDArray[np.uint32]  # of a secure sum, modulo 2^64 or 2^32
Sum = NDArray[Any]  # floats, or integers where the quantities that are added are whole
