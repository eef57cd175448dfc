"""The harness, and what every result file needs: machine, checks, time limits, files."""
