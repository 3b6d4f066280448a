"""`python -m simulations.pilots.deepsarc`: works out hr_marginal of truth.yaml."""

from simulations.pilots import deepsarc

print(f"hr_marginal: {deepsarc.marginal():.4f}")
