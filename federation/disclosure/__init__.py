"""Disclosure control: every comparison of a count with `min_cell`, at the node's door and at the hub's."""
