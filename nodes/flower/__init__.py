"""The node's side of Flower; only these modules of a node import flwr."""
