"""Comparisons of treatments in observational data."""
