"""The work of each command: one module for a group of commands, imported when one of them runs."""
