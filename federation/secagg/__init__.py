"""The secure sum, pure: the hub learns the sum of the nodes' vectors and no vector (Bonawitz et al. 2017).

keys      identities, agreed keys, sealed envelopes      shares    Shamir's secret sharing
masks     a seed spread over a vector                    fixed     numbers as integers mod 2^64
node      what a node does in each of the five rounds    hub       what the hub does with what it gets
"""
