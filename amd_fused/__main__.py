"""`python -m amd_fused`: the trainer's command line, also installed as `amd-fused`."""

import sys

from amd_fused.distill.cli import main

if __name__ == "__main__":
    sys.exit(main())
