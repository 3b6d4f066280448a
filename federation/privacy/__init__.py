"""The privacy engine: integer noise, its calibration to a budget, and the cost of a release.
Pure."""
