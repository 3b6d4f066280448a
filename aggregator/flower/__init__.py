"""The hub's side of Flower; only these modules of the hub import flwr."""
