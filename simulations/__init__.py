"""Whole federations on one machine, run by the same code as deployed ones."""
