"""The `hdh` command: the only place that knows every package."""
