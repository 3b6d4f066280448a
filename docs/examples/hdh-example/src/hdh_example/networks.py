"""A network of terms whose hidden layer is added to its input (He et al. 2016)."""

from __future__ import annotations

from typing import Any

from strategies.learning.networks import Recipe


def residual(shape: tuple[int, ...], widths: tuple[int, ...]) -> Any:
    """Takes rows (n_rows, n_terms) and returns (n_rows, 1). `widths`: of the hidden layer."""
    from torch import nn  # when a study trains, and not before

    class Residual(nn.Module):  # type: ignore[misc]
        def __init__(self, terms: int, width: int) -> None:
            super().__init__()
            self.first = nn.Linear(terms, width)
            self.norm = nn.LayerNorm(width)
            self.second = nn.Linear(width, terms)
            self.last = nn.Linear(terms, 1)

        def forward(self, rows: Any) -> Any:
            hidden = nn.functional.relu(self.norm(self.first(rows)))
            return self.last(rows + self.second(hidden))

    return Residual(shape[0], widths[0] if widths else 16)


RESIDUAL = Recipe(residual, axes=1, takes="terms, as in died ~ age + sex", widths=(16,))
