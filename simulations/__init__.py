"""Whole federations on one machine, through the code of a real one."""
