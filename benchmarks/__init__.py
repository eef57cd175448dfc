"""Benchmarks: `python -m benchmarks`, and what it measures by name.

| command | what it does |
|---|---|
| `losses` (default) | time and memory of the AMD loss against its peers and a plain copy |
| `siblings` | the same of the other losses: KD, spherical KD, ND, LSH, AT, SP, RKD |
| `scaling` | the AMD loss, as the batch and the maps grow |
| `host` | what a call costs the host: Python, dispatcher, launches |
| `training` | a whole distillation step: images per second, memory |
| `report` | tables and pictures of result files |
| `compare` | what changed from one result file to another, told from noise |
| `all` | losses, siblings, scaling, host, pytest-benchmark and the report: `make bench` |
| `gpu` | what an NVIDIA GPU has to show, tests and times, in two stages: `make gpu` |

harness.py measures, and one file a loss (amd.py, kd.py) says what: a function
``case(shape, layout, dtype, device)``, entered in ``SUBJECTS`` of losses.py or siblings.py;
common.py has what they share. bench_loss.py is for pytest-benchmark. results/ holds the JSON files.
"""

import os

# Silences the profiler's start and stop lines; read once, when torch is first imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
