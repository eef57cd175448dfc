"""The command line `amd-fused`: trains teachers and students, and shows what came out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from amd_fused.distill import paper_cells, recipe_files, recipe_listing
from amd_fused.distill.errors import TrainingError, UsageError
from amd_fused.distill.methods import parse
from amd_fused.distill.options import (
    PROGRAM,
    SWEPT,
    Parser,
    add_plugin_option,
    add_run_options,
    folder,
    load_plugins,
    overrides,
    refuse,
    settings_of,
)
from amd_fused.distill.run_dir import RunDir
from amd_fused.distill.teacher_options import add_teacher_options, teacher_of

_DESCRIPTION = """\
Distil small networks from big ones with the AMD loss and its siblings, as the AMD paper does.
Start with `amd-fused sweep --recipe demo`, or look at `amd-fused recipes`. Several processes or
machines: `accelerate launch -m amd_fused distill ...` or `torchrun -m amd_fused distill ...`."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command. The exit code: 0; 1 a package is missing; 2 it was asked for something that
    cannot be; 3 training failed; 130 and 143 stopped by SIGINT and SIGTERM."""
    try:
        load_plugins(arguments)
        given = _parser().parse_args(arguments)
        run: Callable[[argparse.Namespace], None] = given.run
        run(given)
    except UsageError as error:
        refuse(str(error))
    except TrainingError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 3
    except ModuleNotFoundError as error:
        print(
            f"{PROGRAM}: the package {error.name!r} must be installed; "
            "pip install 'amd_fused[distill]'",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt as error:
        # The engine has said what it saved; a Terminated says its own code.
        return getattr(error, "exit_code", 130)
    except BrokenPipeError:
        # As when piped into head.
        sys.stderr.close()
        return 141
    return 0


def _parser() -> Parser:
    parser = Parser(prog=PROGRAM, description=_DESCRIPTION)
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

    def add(name: str, run: Callable[[argparse.Namespace], None], help: str) -> Parser:
        made: Parser = commands.add_parser(name, help=help, description=help)
        made.set_defaults(run=run)
        return made

    teacher = add("train-teacher", _train_teacher, "train a teacher from the labels")
    add_run_options(teacher, "train-teacher")
    student = add("distill", _distill, "train a student, from scratch or under a teacher")
    add_teacher_options(student)
    add_run_options(student, "distill")
    for made in (teacher, student):
        made.add_argument("--resume", action="store_true", help="go on where the run was stopped")
        made.add_argument(
            "--report",
            action=argparse.BooleanOptionalAction,
            default=True,
            help="write report.html after the run",
        )

    evaluate = add("evaluate", _evaluate, "test the kept weights of a finished run")
    evaluate.add_argument("run_dir", type=Path, metavar="RUN", help="its folder")
    evaluate.add_argument(
        "--epoch", type=int, metavar="N", help="of the kept ones; default: the last"
    )
    evaluate.add_argument("--data-dir", metavar="DIR", help="default: where the run found its data")

    table = add("table", _table, "gather runs over seeds into the paper's table")
    table.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="runs lie below them")
    table.add_argument(
        "--output-dir", type=Path, metavar="DIR", help="for table.md and table.csv; default: DIR"
    )
    table.add_argument("--report", action="store_true", help="write one report.html of all too")

    table.add_argument(
        "--compare",
        metavar="OPTION",
        help="also what runs differ by that differ in this option, as backend or gamma",
    )

    sweep = add("sweep", _sweep, "train teachers and students over methods, seeds and a grid")
    sweep.add_argument(
        "--methods",
        nargs="+",
        type=parse,
        metavar="METHOD",
        help="default: those of the recipe",
    )
    sweep.add_argument(
        "--seeds", type=int, metavar="N", help="seeds 0 to N - 1, each with a teacher of its own"
    )
    sweep.add_argument("--teacher-epoch", type=int, metavar="N", help="as in distill")
    add_run_options(sweep, "sweep")

    tune = add("tune", _tune, "choose each method's settings on held-out training images")
    add_run_options(tune, "tune")

    backends = add("backends", _backends, "which kernels run here, and why others do not")
    backends.add_argument("--time", action="store_true", help="time the AMD loss with each of them")
    add("doctor", _doctor, "what to paste into a bug report: versions, machine, backends")
    listed = add("recipes", _recipes, "list the recipes and what the paper reports for each")
    listed.add_argument("name", nargs="?", help="show one in full")
    for reading in (evaluate, table, listed):
        add_plugin_option(reading)
    listed.add_argument(
        "--table", type=int, metavar="N", help="what runs for each number of the paper's table N"
    )
    listed.add_argument(
        "--show", metavar="NAME", help="print one as YAML, for a file that --recipe takes"
    )
    return parser


def _train_teacher(given: argparse.Namespace) -> None:
    settings = settings_of(given, "train-teacher")
    path = folder(given, f"teacher-seed-{settings.seed}")
    if given.resume and RunDir(path).config_file.exists():
        settings = RunDir(path).settings().changed(**overrides(given))
    from amd_fused.distill import engine

    finished = RunDir(path).result_file.exists()
    result = engine.train_teacher(
        settings, path, resume=given.resume, show_progress=not given.quiet
    )
    _finish(path, result, report=given.report, again=finished)


def _distill(given: argparse.Namespace) -> None:
    settings = settings_of(given, "distill")
    path = folder(given, f"{settings.method}-seed-{settings.seed}")
    run = RunDir(path)
    known = None
    if given.resume and run.config_file.exists():
        settings = run.settings().changed(**overrides(given))
        known = run.config()["teacher"]
    settings, teacher = teacher_of(given, settings, known)
    from amd_fused.distill import engine

    finished = run.result_file.exists()
    result = engine.distill(
        settings,
        path,
        teacher,
        resume=given.resume,
        show_progress=not given.quiet,
    )
    _finish(path, result, report=given.report, again=finished)


def _finish(path: Path, result: dict[str, object], *, report: bool, again: bool) -> None:
    """Writes the report and prints the result of a run, `again` of one that was finished before.

    A run that was killed while its report was written gets it when it is resumed.
    """
    from amd_fused.distill import summary

    out = path / "report.html"
    if report and summary.is_main_process() and not (again and out.exists()):
        # Pictures need libraries that training does without.
        from amd_fused.distill.reports import write_report

        write_report([path], out)
    summary.print_result(path, result)


def _evaluate(given: argparse.Namespace) -> None:
    if not given.run_dir.is_dir():
        raise UsageError(f"RUN must be the folder of a run, got {given.run_dir}")
    from amd_fused.distill import engine, summary

    metrics = engine.evaluate(given.run_dir, epoch=given.epoch, data_dir=given.data_dir)
    summary.print_metrics(metrics)


def _table(given: argparse.Namespace) -> None:
    for path in given.folders:
        if not path.is_dir():
            raise UsageError(f"DIR must be a folder with runs, got {path}")
    from amd_fused.distill import reports

    given.output_dir = given.output_dir or given.folders[0]
    out = folder(given)
    print(reports.write_table(given.folders, out))
    if given.compare:
        print(reports.write_comparison(given.folders, given.compare, out))
    if given.report:
        reports.write_report(given.folders, out / "report.html")
        print(f"Report: {out / 'report.html'}")


def _sweep(given: argparse.Namespace) -> None:
    grid = {name: tuple(getattr(given, name)) for name in SWEPT if hasattr(given, name)}
    recipe = recipe_files.find(given.recipe)
    for name in grid:
        delattr(given, name)
    from amd_fused.distill import sweep

    sweep.run(
        recipe,
        overrides(given),
        folder(given),
        methods=tuple(given.methods or map(parse, recipe.methods)),
        seeds=recipe.seeds if given.seeds is None else given.seeds,
        grid=grid or recipe.grid,
        teacher_epoch=given.teacher_epoch,
        show_progress=not given.quiet,
    )


def _tune(given: argparse.Namespace) -> None:
    from amd_fused.distill import summary, tune

    out = folder(given, "tune")
    recipe = recipe_files.find(given.recipe)
    chosen = tune.run(recipe, overrides(given), out, show_progress=not given.quiet)
    summary.print_choices(out / f"{recipe.name}.json", chosen)


def _backends(given: argparse.Namespace) -> None:
    from amd_fused.distill import summary

    summary.print_backends(timed=given.time)


def _doctor(given: argparse.Namespace) -> None:
    from amd_fused import doctor

    print(doctor.report())


def _recipes(given: argparse.Namespace) -> None:
    name = given.name or given.show
    if given.table is not None and name:
        raise UsageError(f"--table must not be given with a recipe's name, got {name}")
    if given.name and given.show:
        raise UsageError(f"--show must be given one recipe's name, got {given.name} too")
    if given.show is not None:
        print(recipe_files.to_yaml(recipe_files.find(given.show)), end="")
    elif given.table is not None:
        print(paper_cells.listing(given.table))
    else:
        print(recipe_listing.describe(given.name) if given.name else recipe_listing.overview())
