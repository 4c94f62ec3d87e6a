"""The price of a program in privacy: Rényi curves of the Poisson-subsampled Gaussian mechanism, by dp-accounting."""

from dataclasses import dataclass

ORDERS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 128, 256)
"""The orders of every Rényi curve in the market: the budget ledger on chain adds curves up at these."""


@dataclass(frozen=True)
class PrivacyCost:
    """rdp[i]: Rényi divergence of order ORDERS[i] of all steps; epsilon: of (ε, δ), converted from the best order."""

    rdp: tuple[float, ...]
    epsilon: float


def privacy_cost(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> PrivacyCost:
    """`steps` updates, each on a Poisson sample, each with Gaussian noise of noise_multiplier times the sensitivity.

    Mironov, Talwar, Zhang 2019 (arXiv 1908.10530) for the curve, Canonne, Kamath, Steinke 2020 (2004.00010) for ε.
    """
    from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
    from dp_accounting.rdp.rdp_privacy_accountant import RdpAccountant, compute_epsilon

    accountant = RdpAccountant(list(ORDERS), NeighboringRelation.ADD_OR_REMOVE_ONE)
    accountant.compose(PoissonSampledDpEvent(sample_rate, GaussianDpEvent(noise_multiplier)), steps)
    rdp = tuple(float(value) for value in accountant._rdp)  # the library has no public name for the curve
    return PrivacyCost(rdp, float(compute_epsilon(ORDERS, rdp, delta)[0]))
