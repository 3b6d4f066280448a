"""Descriptive statistics and tests."""
