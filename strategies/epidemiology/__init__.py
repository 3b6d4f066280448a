"""Rates, case series, surveillance, drug safety and pathways of care."""
