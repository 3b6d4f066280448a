"""The hub's side of Flower: the only modules of the hub that import flwr."""
