"""The join at national size, streamed: CPU seconds and memory of all three parties in one process.

python benchmarks/linkage.py [LEFT RIGHT WORDS]     by default 1e6 1e7 10 and 8e6 6.7e7 3"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np

from benchmarks import timing
from federation.linkage import canaries, encoding, matching, pseudonyms, streams
from federation.linkage.keys import HolderKeys
from federation.linkage.pseudonyms import Words
from federation.linkage.streams import Placed

CHUNK = 2**20
LIMITS = {(10**6, 10**7, 10): (15.0, 3000), (8 * 10**6, 67 * 10**6, 3): (180.0, 3000)}


def main(left: int, right: int, width: int) -> bool:
    keys = HolderKeys(*(os.urandom(32) for _ in range(3)))
    both = int(0.97 * left)
    stride = right // both  # every stride-th person of the right is at the left
    started = time.process_time()
    people = np.arange(both, dtype=np.uint64) * np.uint64(stride)
    others = np.arange(left - both, dtype=np.uint64) + np.uint64(10**13)
    made_up = canaries.make(keys.made_up, 64, width)
    listed = streams.left_list(
        keys, named(keys, np.concatenate([people, others])), made_up, os.urandom
    )
    stream = streams.right_stream(
        keys,
        rows(keys, right, width),
        made_up,
        streams.dummies_for(len(listed.order)),
        os.urandom,
        piece_rows=encoding.rows_per_piece((2,), width),
    )
    matched = matching.match(listed.pseudonyms, stream, width)
    share = streams.left_share(keys, matched.tokens, width)
    opened = matching.opened(share, matched.rows)
    canaries.check(made_up, listed.made_up_of(opened))
    assert opened[:, 0].sum() == both + made_up.at_right
    seconds = time.process_time() - started
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    max_s, max_mb = LIMITS.get((left, right, width), (float("inf"), float("inf")))
    size = f"{left:,} x {right:,} people, {width} words a row"
    return all(
        [
            timing.report("CPU of a join, s", seconds, max_s, size),
            timing.report("its peak memory, MB", megabytes, max_mb, size),
        ]
    )


def named(keys: HolderKeys, numbers: Words) -> Words:
    blocks = np.zeros((len(numbers), 2), np.uint64)
    blocks[:, 0] = numbers
    return pseudonyms.of_blocks(keys.identifier, blocks.view(np.uint8).reshape(-1, 16))


def rows(keys: HolderKeys, right: int, width: int) -> Iterator[Placed]:
    chunks = range(0, right, CHUNK)
    for number, start in enumerate(chunks):
        numbers = np.arange(start, min(start + CHUNK, right), dtype=np.uint64)
        columns = [numbers % np.uint64(20_011 + j) for j in range(width - 1)]
        words = np.column_stack([np.ones_like(numbers), *columns])
        step = 2**64 // len(chunks)
        places = streams.fresh_places(len(numbers), os.urandom) // np.uint64(len(chunks))
        yield Placed(named(keys, numbers), words, places + np.uint64(number * step))


if __name__ == "__main__":
    sizes = [tuple(int(float(size)) for size in sys.argv[1:4])] if sys.argv[1:] else list(LIMITS)
    sys.exit(not all(main(*size) for size in sizes))
