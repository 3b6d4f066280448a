"""CPU time of the secure sum, all parties together, against the expansion of its masks by AES alone
and against the arithmetic of Flower's SecAgg+; the cost of dropouts; and the hub of 200 nodes."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks import timing
from federation.arrays import Words
from federation.secagg import aggregation, keys, masks, participant
from federation.secagg.terms import Terms

LENGTH = 1_000_000


@dataclass
class Cost:
    """CPU seconds of all nodes together, and of the hub; and the number of expanded streams."""

    nodes: float = 0.0
    hub: float = 0.0
    streams: int = 0
    states: dict[str, participant.SecAggState] = field(default_factory=dict)


def identity(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def secure_sum(n: int, dropouts: int, length: int, lost: int = 0, bits: Any = 64) -> Cost:
    """All phases, over vectors of random integers; `lost` nodes fall silent after they dealt their
    shares."""
    names = [f"n{i:03d}" for i in range(n)]
    terms = Terms(
        "benchmark",
        {name: keys.public_identity(identity(name)) for name in names},
        n - dropouts,
        1,
        length,
        bits,
    )
    vector: Words = np.random.default_rng(1).integers(0, 2**24, length, dtype=terms.dtype)
    cost = Cost()
    start = time.process_time()
    adverts, dealt, masked, signatures, openings = {}, {}, {}, {}, {}
    for name in names:
        cost.states[name], adverts[name] = participant.advertise(terms, name, identity(name))
    for name in names:
        cost.states[name], dealt[name] = participant.deal(cost.states[name], adverts)
    cost.nodes += time.process_time() - start
    routed = aggregation.route(terms, dealt)
    vectors = {name: vector.copy() for name in names}
    start = time.process_time()
    for name in names[lost:]:
        cost.states[name], masked[name] = participant.mask(
            cost.states[name], dealt, routed[name], vectors[name]
        )
        cost.streams += 1 + len(routed[name])
    for name in names[lost:]:
        cost.states[name], signatures[name] = participant.sign_survivors(
            cost.states[name], frozenset(masked)
        )
    for name in names[lost:]:
        cost.states[name], openings[name] = participant.unmask(cost.states[name], signatures)
    cost.nodes += time.process_time() - start
    start = time.process_time()
    total = aggregation.open_sum(terms, adverts, frozenset(dealt), masked, openings)
    cost.hub = time.process_time() - start
    cost.streams += len(masked) + sum(
        len(terms.neighbours_of(name) & masked.keys()) for name in names[:lost]
    )
    np.testing.assert_array_equal(total, vector * terms.dtype.type(len(masked)))
    return cost


def aes_alone(streams: int, length: int, bits: int) -> float:
    """CPU seconds of expanding the seeds alone."""
    buffer, zeros, whole = (
        bytearray(masks.CHUNK_BYTES + 15),
        memoryview(bytes(masks.CHUNK_BYTES)),
        length * bits // 8,
    )
    start = time.process_time()
    for number in range(streams):
        stream = masks.stream(number.to_bytes(32, "little"))
        for at in range(0, whole, masks.CHUNK_BYTES):
            stream.update_into(zeros[: min(masks.CHUNK_BYTES, whole - at)], buffer)
    return time.process_time() - start


def flower(n: int, shares: int, length: int) -> float:
    """CPU seconds of SecAgg+'s masking and unmasking, as flwr 1.41 does it: each node quantises,
    adds its mask and one for each neighbour; the server removes the nodes' masks."""
    from flwr.common.secure_aggregation.ndarrays_arithmetic import (
        parameters_addition,
        parameters_mod,
        parameters_subtraction,
    )
    from flwr.common.secure_aggregation.quantization import quantize
    from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen

    values, shape, modulus = [np.random.default_rng(1).normal(size=length)], [(length,)], 2**32

    def seed(*parts: object) -> bytes:
        return hashlib.sha256(repr(parts).encode()).digest()

    start = time.process_time()
    total = None
    for i in range(n):
        vector = quantize(values, 8.0, 2**22)
        vector = parameters_addition(vector, pseudo_rand_gen(seed(i), modulus, shape))
        for step in range(1, shares):
            mask = pseudo_rand_gen(seed(i, step), modulus, shape)
            vector = (
                parameters_addition(vector, mask)
                if step % 2
                else parameters_subtraction(vector, mask)
            )
        vector = parameters_mod(vector, modulus)
        total = vector if total is None else parameters_addition(total, vector)
    for i in range(n):
        total = parameters_subtraction(total, pseudo_rand_gen(seed(i), modulus, shape))
    parameters_mod(total, modulus)
    return time.process_time() - start


def main() -> bool:
    met = [
        figure
        for n, shares in ((10, 10), (50, 17), (100, 17))
        for figure in _against_floors(n, shares)
    ]
    whole, fewer = (min(_all(secure_sum(50, 5, LENGTH, lost)) for _ in range(2)) for lost in (0, 5))
    met.append(
        timing.report(
            "secure sum of 50 nodes with 5 dropped / with none",
            fewer / whole,
            1.2,
            f"{fewer:.2f} s, {whole:.2f} s",
        )
    )
    large = min((secure_sum(200, 20, 10_000, 20) for _ in range(2)), key=lambda cost: cost.hub)
    met.append(
        timing.report(
            "hub of 200 nodes, 20 dropped, 1e4 values, seconds",
            large.hub,
            1,
            f"the nodes together {large.nodes:.1f} s",
        )
    )
    return all(met)


def _against_floors(n: int, shares: int) -> Iterator[bool]:
    """Against AES alone for 32 and 64 bits, and against Flower's SecAgg+, which has 32."""
    theirs = flower(n, shares, LENGTH)
    for bits in (32, 64):
        costs = [secure_sum(n, n // 10, LENGTH, bits=bits) for _ in range(3)]
        ours, streams = min(map(_all, costs)), costs[0].streams
        # Each node's own mask, and one for each node that it shares with; the hub removes the own
        # ones.
        reference = n * shares + n
        floor = min(aes_alone(reference, LENGTH, bits) for _ in range(3))
        yield timing.report(
            f"secure sum of 1e6 values of {bits} bits,"
            f" {n} nodes / expanding its masks by AES alone",
            ours / floor,
            2,
            f"{ours:.2f} s of CPU for {streams} masks,"
            f" AES alone {floor:.2f} s for {reference}: {shares} shares each",
        )
        if bits == 32:
            yield timing.report(
                "the same / Flower's SecAgg+ arithmetic",
                ours / theirs,
                0.2,
                f"SecAgg+ {theirs:.2f} s",
            )


def _all(cost: Cost) -> float:
    return cost.nodes + cost.hub


if __name__ == "__main__":
    sys.exit(not main())
