"""The price of a training by the accountant of Opacus, shown beside ours. No budget rests on it."""

from __future__ import annotations

import importlib.util
import warnings

from federation.privacy.accounting import Sampled


def epsilon(event: Sampled, delta: float) -> float | None:
    """The epsilon of the steps by its Renyi accountant, which also uses orders that are no whole
    numbers; None if Opacus (extra `deep`) is not installed."""
    if importlib.util.find_spec("opacus") is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about its optional parts and its orders
        from opacus.accountants import RDPAccountant

        accountant = RDPAccountant()
        accountant.history.append((event.noise_multiplier, event.rate, event.steps))
        return float(accountant.get_epsilon(delta))
