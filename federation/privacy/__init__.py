"""The privacy engine's pure half: integer noise, and what a release costs. Not yet asked by a node: see README.md."""
