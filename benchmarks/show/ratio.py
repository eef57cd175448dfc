"""How many times longer one run took than another, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.99
# With fewer an interval says nothing.
LEAST_ROUNDS = 5
_RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """Median of B over median of A, within its interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f}-{self.high:.3f})"

    @property
    def change(self) -> float:
        """Of B from A, the same for twice and for half as long."""
        return max(self.value, 1 / self.value) - 1

    def told(self, noise: float) -> str:
        """ "faster" or "slower" if the whole interval is beyond the noise, else "within noise"."""
        if self.high < 1 / (1 + noise):
            return "faster"
        return "slower" if self.low > 1 + noise else "within noise"


def ratio(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """Of two runs' rounds, each in order: the interval is a block bootstrap's.

    Rounds after each other are alike where a machine's speed drifts, so what is drawn again is
    blocks of them, the cube root of their number long, from each run for itself.
    """
    generator = np.random.default_rng(0)
    medians_a, medians_b = (_resampled_medians(np.asarray(run), generator) for run in (a, b))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians_b / medians_a, [tail, 1 - tail])
    return Ratio(float(np.median(b) / np.median(a)), float(low), float(high))


def _resampled_medians(
    rounds: NDArray[np.float64], generator: np.random.Generator
) -> NDArray[np.float64]:
    length = max(1, round(len(rounds) ** (1 / 3)))
    blocks = -(-len(rounds) // length)
    starts = generator.integers(len(rounds), size=(_RESAMPLES, blocks, 1))
    # The last round is followed by the first.
    drawn = ((starts + np.arange(length)) % len(rounds)).reshape(_RESAMPLES, -1)
    return np.median(rounds[drawn[:, : len(rounds)]], axis=1)
