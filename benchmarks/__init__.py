"""Benchmarks: `python -m benchmarks`, and what it measures by name.

| command | what it measures |
|---|---|
| `losses` (default) | time and memory of the losses against their peers and a plain copy |
| `host` | what a call costs the host: Python, dispatcher, launches |
| `training` | a whole distillation step: images per second, memory |
| `gpu` | all of this and the GPU tests, on a machine with an NVIDIA GPU: `make gpu` |

harness.py measures, and one file a loss (amd.py) says what: a function
``case(shape, layout, dtype, device)``, entered in ``SUBJECTS`` of losses.py. results/ holds the
JSON files.
"""

import os

# Silences the profiler's start and stop lines; read once, when torch is first imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
