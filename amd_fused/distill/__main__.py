"""The command line: `python -m amd_fused.distill`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

from amd_fused import _backends
from amd_fused.distill.config import Config

PROGRAM = "amd_fused.distill"
DESCRIPTION = """\
Train a WideResNet teacher on scikit-learn's handwritten digits (1,797 grey 8x8 images, half of them
held out for testing), then a small student on few of the training images: from scratch, with KD,
with AMD (g) and with AMD (g+l), with several seeds. Prints test accuracies after the last epoch and
the time of a training step with the fused AMD loss and with the eager reference, and writes
report.json and learning_curves.png."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        _refuse(f"{message} (--help lists the options)")


def _refuse(message: str) -> NoReturn:
    """One line and exit code 2, instead of the usage or a traceback."""
    print(f"{PROGRAM}: {message}", file=sys.stderr)
    raise SystemExit(2)


def parse(arguments: Sequence[str] | None) -> tuple[Config, Path]:
    """Settings and output directory; prints and exits, with code 2 for bad options."""
    parser = _Parser(
        prog=f"python -m {PROGRAM}",
        description=DESCRIPTION,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--output-dir",
        type=Path,
        default=Path("runs/digits-demo"),
        metavar="DIR",
        help="where report.json and learning_curves.png go; made if missing",
    )
    for option in fields(Config):
        parser.add_argument(
            "--" + option.name.replace("_", "-"),
            type=type(option.default),
            default=option.default,
            metavar={str: "D-K", int: "N", float: "X"}[type(option.default)],
            help=option.metadata["help"],
        )
    options = vars(parser.parse_args(arguments))
    output_dir: Path = options.pop("output_dir")
    try:
        config = Config(**options)
    except ValueError as error:
        _refuse(str(error).removeprefix("Config: "))
    return config, output_dir


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the experiment; the exit code: 0, 1 if a package is missing, 2 for bad options."""
    config, output_dir = parse(arguments)
    try:
        run(config, output_dir)
    except ModuleNotFoundError as error:
        print(
            f"{PROGRAM}: the package {error.name!r} must be installed; "
            "pip install 'amd_fused[distill]'",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted, nothing written", file=sys.stderr)
        return 130
    return 0


def run(config: Config, output_dir: Path) -> None:
    """The whole experiment: train, time, print, write."""
    # Here, so that --help and errors in options need none of the extra's packages, nor their time.
    from rich.console import Console

    from amd_fused.distill import data, experiment, plot, progress, report, timing

    # First what cannot work, not after minutes of training.
    digits = data.load_digits()
    if config.train_size > len(digits.train):
        _refuse(f"train_size must be at most {len(digits.train)}, got {config.train_size}")
    backend = _default_backend()
    _make_writable(output_dir)

    start = time.perf_counter()
    console = Console()
    with progress.TrainingProgress(console, config) as bar:
        runs, teacher = experiment.run_all(config, digits, bar.on_epoch)
    timings = timing.time_backends(config, digits, teacher) if config.timing_steps else {}
    seconds = time.perf_counter() - start

    console.print()
    report.print_tables(console, config, digits, runs, timings, backend)
    content = report.report(config, digits, runs, timings, backend, seconds)
    report.write_json(output_dir / "report.json", content)
    plot.plot_curves(output_dir / "learning_curves.png", config, digits, runs)
    # Not the console's print, which breaks long paths into lines.
    print(f"\nReport:  {output_dir / 'report.json'}\nPicture: {output_dir / 'learning_curves.png'}")


def _default_backend() -> str:
    try:
        return _backends.choose("amd_loss", "auto", "cpu")
    except (ValueError, RuntimeError) as error:
        _refuse(str(error))


def _make_writable(output_dir: Path) -> None:
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output_dir).close()
    except OSError as error:
        _refuse(
            f"output-dir must be a directory to write into, got {output_dir} ({error.strerror})"
        )


if __name__ == "__main__":
    sys.exit(main())
