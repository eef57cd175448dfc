"""What the norms of several losses have in common."""

from __future__ import annotations

# Norms below this count as this in every normalisation of Eq. 7, as in F.normalize.
NORM_FLOOR = 1e-12
