"""`make bench` measures the project's performance figures, as ratios within one run."""
