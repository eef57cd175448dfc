"""What ends a command of the trainer with one line and an exit code of its own, not a traceback."""

from __future__ import annotations


class UsageError(Exception):
    """What the user asked for cannot be done as asked: exit code 2.

    The message is one line that names the option or file, the rule and the value.
    """


class TrainingError(Exception):
    """Training cannot go on, as when a loss became NaN: exit code 3."""
