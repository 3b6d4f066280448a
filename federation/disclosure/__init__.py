"""Disclosure control: every comparison of a count with `min_cell`, at both doors."""
