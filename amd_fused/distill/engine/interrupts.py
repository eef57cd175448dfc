"""SIGINT and SIGTERM: training ends after the step under way, once that is saved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM came: exit code 143, where SIGINT's KeyboardInterrupt is 130."""

    exit_code = 143


class Interrupts:
    """While in its context, the first of the two signals is kept in mind; the second raises.

    It is kept in mind only while `deferred` is true, which the training loop sets: elsewhere, as
    while data are loaded, the first raises at once, for nothing would be lost. Signals reach the
    main thread alone; in another thread the context changes nothing.

    Args:
        announce: called with a line for the user when a signal comes. It must be safe in a signal
            handler: no lock that the interrupted code may hold.
    """

    def __init__(self, announce: Callable[[str], None]) -> None:
        self.deferred = False
        self.received: signal.Signals | None = None
        self._announce = announce
        self._before: dict[signal.Signals, Any] = {}

    def stop(self, received: signal.Signals | None = None) -> KeyboardInterrupt:
        """What to raise for a signal; by default for the one that was received."""
        received = received or self.received or signal.SIGTERM
        return KeyboardInterrupt() if received == signal.SIGINT else Terminated()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        received = signal.Signals(number)
        if not self.deferred or self.received is not None:
            self._announce(f"{received.name}: stopped at once; --resume goes on from the last save")
            raise self.stop(received)
        self.received = received
        self._announce(f"{received.name}: stopping after this step; once more stops at once")

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = {which: signal.signal(which, self._handle) for which in _SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for which, handler in self._before.items():
            signal.signal(which, handler)
        self._before = {}
