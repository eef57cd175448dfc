"""Leaves peers out where compiling them would make a run last longer than was asked for."""

from __future__ import annotations

import statistics
import time
from typing import Any

from benchmarks.subject import AUTOTUNED, COMPILED, Variant

# Before one was seen: seconds of a first call, and of a case besides what it compiles.
_FIRST_GUESS = {COMPILED: 40.0, AUTOTUNED: 240.0}
_CASE_GUESS = 6.0


class Budget:
    """Decides, variant by variant, from what the cases before took.

    Args:
        seconds: for all cases together; None for no limit. Variants that compile nothing are never
            left out, so a run may still last longer.
        cases: how many there will be.
    """

    def __init__(self, seconds: float | None, cases: int) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds
        self._cases_left = cases
        self._first_call = dict(_FIRST_GUESS)
        self._case_seconds = [_CASE_GUESS]
        self._seen = 0

    def refusal(self, variant: Variant) -> str:
        """Why the variant is left out of the case that is next; empty if it is not."""
        if self._end is None or not variant.compiles:
            return ""
        others = self._cases_left * statistics.mean(self._case_seconds)
        left = self._end - time.monotonic() - others
        needed = self._first_call.get(variant.key, max(_FIRST_GUESS.values()))
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
