"""Machine learning: networks, trees, clusters, and their evaluation."""
