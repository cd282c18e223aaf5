"""Student's test of many small samples at once.

Three seeds tell little of a pair's spread: two degrees of freedom want a mean 4.3 standard errors from zero, and
after a correction for many pairs so many that a table of eight rows could hardly ever call a difference. But all
pairs of a table together tell how differences scatter. Each pair's variance is therefore drawn towards what the pairs
have in common, the more so the more alike they are (empirical Bayes: Smyth 2004, "Linear models and empirical Bayes
methods for assessing differential expression in microarray experiments", section 6). What is tested are logarithms,
as the spread of distances grows with them. A row much noisier than the others is lent their calm: `MOST` bounds that.
How often chance is called a difference, and how often a real one is found, is measured by `benchmarks/false_calls.py`
(results/false-calls).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch

MOST = 10.0  # degrees of freedom that the other pairs may lend
LEAST = 1e-24  # variance of logarithms below which values differ by rounding alone


def two_sided(t: float, freedom: int) -> float:
    """P(|T| >= |t|) of Student's distribution for whole degrees of freedom (Abramowitz and Stegun, 26.7.3, 26.7.4)."""
    angle = math.atan(abs(t) / math.sqrt(freedom))
    cosine, odd = math.cos(angle), freedom % 2 == 1
    term = cosine if odd else 1.0
    total = 0.0 if freedom == 1 else term
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        total += term
    inside = 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
    return max(0.0, 1 - inside)


def point(freedom: int, level: float = 0.95) -> float:
    """The t of which P(|T| >= t) is 1 - `level`, to 1e-9."""
    low, high = 0.0, 1.0
    while two_sided(high, freedom) > 1 - level:
        high *= 2
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if two_sided(middle, freedom) > 1 - level else (low, middle)
    return high


def common_variance(variances: Sequence[float], freedoms: Sequence[int]) -> tuple[float, float]:
    """What samples' variances have in common: the scaled inverse chi-squared distribution that they come from, fitted
    to the mean and variance of their logarithms.

    Args:
        variances: of each sample, unbiased; zeros tell nothing and are left out.
        freedoms: their degrees of freedom.

    Returns:
        the common variance and how many degrees of freedom it is worth, at most `MOST`; (0, 0) of fewer than two.
    """
    known = [(variance, freedom / 2) for variance, freedom in zip(variances, freedoms, strict=True) if variance > 0]
    if len(known) < 2:
        return 0.0, 0.0
    logs = [math.log(variance) - _digamma(half) + math.log(half) for variance, half in known]
    excess = statistics.variance(logs) - statistics.fmean(_trigamma(half) for _, half in known)
    low, half = 1e-6, 1e6  # trigamma falls: the less the variances differ beyond chance, the more they have in common
    for _ in range(60):
        middle = math.sqrt(low * half)
        low, half = (middle, half) if _trigamma(middle) > excess else (low, middle)
    return math.exp(statistics.fmean(logs) + _digamma(half) - math.log(half)), min(2 * half, MOST)


def p_values(samples: Sequence[Sequence[float]], independent: int) -> list[float]:
    """Two-sided, of the mean of each sample (two values or more) being zero; 1 where nothing scatters.

    Args:
        independent: how many of the samples are not combinations of others; with r rows their differences are r - 1.
    """
    freedoms = [len(sample) - 1 for sample in samples]
    variances = [found if (found := statistics.variance(sample)) > LEAST else 0.0 for sample in samples]
    common, worth = common_variance(variances, freedoms)
    found = []
    for sample, freedom, variance in zip(samples, freedoms, variances, strict=True):
        error = math.sqrt((worth * common + freedom * variance) / (worth + freedom) / len(sample))
        most = max(freedom, independent * max(freedoms))  # degrees of freedom that the values have
        mean = statistics.fmean(sample)
        found.append(two_sided(mean / error, math.floor(min(worth + freedom, most))) if error else 1.0)
    return found


def _digamma(x: float) -> float:
    return torch.digamma(torch.tensor(x, dtype=torch.float64)).item()


def _trigamma(x: float) -> float:
    return torch.polygamma(1, torch.tensor(x, dtype=torch.float64)).item()
