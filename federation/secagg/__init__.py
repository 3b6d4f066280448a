"""Secure aggregation without I/O: the hub learns the sum of the nodes' vectors, no single one.

The protocol is that of Bonawitz et al. 2017.

    terms        the parameters that all parties agree on
    participant  the five phases at a node
    aggregation  the sum at the hub
    keys         identities, key agreement, envelopes
    shares       Shamir's secret sharing
    masks        a seed expanded to a vector
    packing      numbers as integers mod 2^64
"""
