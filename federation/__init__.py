"""The contract that nodes, hub and coordinators share."""

__version__ = "0.1.0"
