"""Microbenchmarks: `python -m benchmarks`.

harness.py measures, and one file a subject (amd.py) says what: a function
``case(shape, layout, dtype)``, entered in ``SUBJECTS`` of __main__.py. results/ holds the JSON
files.
"""

import os

# Silences the profiler's start and stop lines; read once, when torch is first imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
