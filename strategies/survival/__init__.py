"""Analyses of the time to an event."""
