"""Where a published data set lies below `--data-dir`, or what is missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from amd_fused.distill.errors import UsageError


def base_folder(data_dir: str, published: str) -> Path:
    """`--data-dir` itself.

    Args:
        published: what should lie there, for the message.

    Raises:
        UsageError: there is no such folder.
    """
    base = Path(data_dir).expanduser().resolve()
    if not base.is_dir():
        raise UsageError(
            f"--data-dir must be the folder that holds {published}, but there is no folder {base}"
        )
    return base


def find_folder(data_dir: str, names: Sequence[str], needs: Sequence[str], published: str) -> Path:
    """The folder with all that `needs` names: one of `names` in `data_dir`, or `data_dir` itself.

    Raises:
        UsageError: there is none, or it lacks something.
    """
    base = base_folder(data_dir, published)
    folders = [base / name for name in names]
    for folder in (*folders, base):
        if not lacking(folder, needs):
            return folder
    for folder in (*folders, base):
        missing = lacking(folder, needs)
        if folder.is_dir() and (folder != base or base.name in names or len(missing) < len(needs)):
            raise UsageError(f"{folder} must hold {published}, but lacks {', '.join(missing)}")
    wanted = " or ".join(f"{name}/" for name in names)
    raise UsageError(
        f"--data-dir must be the folder that holds {published}, but there is no {wanted} in {base}"
    )


def lacking(folder: Path, needs: Sequence[str]) -> list[str]:
    """Those of `needs` that are not in the folder."""
    return [name for name in needs if not (folder / name).exists()]
