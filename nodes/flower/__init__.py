"""The node's side of Flower: the only modules of a node that import flwr."""
