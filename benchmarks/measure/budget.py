"""Leaves peers out where compiling them would make a run last longer than was asked for."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

from benchmarks.measure.subject import AUTOTUNED, COMPILED, Variant

# Of a first call.
_AUTOTUNE_SECONDS = 240.0


@dataclass(frozen=True)
class Guess:
    """Before one was seen: seconds of a peer's first call, and of a case besides."""

    compile: float = 40.0
    case: float = 6.0


class Budget:
    """Decides, variant by variant, from what the cases before took.

    Args:
        seconds: for all cases together; None for no limit. Variants that compile nothing are never
            left out, so a run may still last longer.
        cases: how many there will be.
        guess: of what will be seen.
    """

    def __init__(self, seconds: float | None, cases: int, guess: Guess | None = None) -> None:
        guess = guess or Guess()
        self._end = None if seconds is None else time.monotonic() + seconds
        self._cases_left = cases
        self._first_call = {COMPILED: guess.compile, AUTOTUNED: _AUTOTUNE_SECONDS}
        self._case_seconds = [guess.case]
        self._seen = 0

    def refusal(self, variant: Variant) -> str:
        """Why the variant is left out of the case that is next; empty if it is not."""
        if self._end is None or not variant.compiles:
            return ""
        others = self._cases_left * statistics.mean(self._case_seconds)
        left = self._end - time.monotonic() - others
        needed = self._first_call.get(variant.key, _AUTOTUNE_SECONDS)
        if needed <= left:
            return ""
        return f"about {needed:.0f} s to compile, {max(left, 0):.0f} s left"

    def spent(self, record: dict[str, Any], seconds: float) -> None:
        """Learns from a finished case: its record and how long it took."""
        self._cases_left -= 1
        for variant in record["variants"]:
            if variant["key"] in self._first_call and variant["first_call_ms"] is not None:
                self._first_call[variant["key"]] = 1e-3 * variant["first_call_ms"]
                seconds -= 1e-3 * variant["first_call_ms"]
        # In place of the guess, then beside the others: cases differ in size.
        self._case_seconds = [*self._case_seconds[: self._seen], seconds]
        self._seen += 1
