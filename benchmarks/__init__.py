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
| `all` | losses, siblings, scaling, host and the report: `make bench` |
| `gpu` | what an NVIDIA GPU has to show, tests and times, in two stages: `make gpu` |

measure/ has the harness and what every result file needs, cases/ says what is measured, a command
or a loss a file, and show/ reads result files. results/ holds them as JSON.
"""

import os

# Silences the profiler's start and stop lines; read once, when torch is first imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
