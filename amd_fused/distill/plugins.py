"""Files and modules of the user's that register methods and data sets, imported once.

Example::

    # mine.py; amd-fused distill --plugin mine.py --method mine --mine-power 3 ...
    from amd_fused.distill import POSITIVE, ImageData, option, register_dataset, register_method


    @register_method("mine", compares="maps", options={"power": option(2.0, "exponent", POSITIVE)})
    def mine(settings, shapes):
        return MyLoss(settings.mine_power)


    @register_dataset("squares")
    def squares(settings):
        return ImageData(train=(images, labels), test=(others, theirs), num_classes=4)

A run's config.json names its plugins, and whatever reads the run imports them: `--resume`, a sweep
that goes on, `table`, `evaluate`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType

from amd_fused.distill.errors import UsageError

# By the module's name: the file or, of a module, that name. In the order in which they came.
_loaded: dict[str, str] = {}


def load(plugin: str) -> None:
    """Imports a file that ends in .py, or a module by its name, once.

    Raises:
        UsageError: there is none, it cannot be imported, or another of its name is loaded.
    """
    if not plugin.endswith(".py"):
        if plugin not in _loaded:
            _import(plugin, lambda: importlib.import_module(plugin))
            _loaded[plugin] = plugin
        return
    path = Path(plugin).expanduser().resolve()
    known = _loaded.get(path.stem)
    if known == str(path):
        return
    if not path.is_file():
        raise UsageError(f"--plugin must be a file or a module, but there is no {path}")
    if known is not None or _means_another(path):
        raise UsageError(
            f"--plugin must have a name that no other module has, got {path}; {path.stem} is "
            f"{known or 'one already'}"
        )
    _import(plugin, lambda: _from_file(path))
    _loaded[path.stem] = str(path)


def restore(plugins: Sequence[Mapping[str, str]], config: Path) -> None:
    """Imports what a run's config.json names; a file that was moved since may have been loaded from
    where it lies now.

    Raises:
        UsageError: as :func:`load`.
    """
    for one in plugins:
        name = one["plugin"]
        if name.endswith(".py") and not Path(name).exists():
            if Path(name).stem in _loaded:
                continue
            raise UsageError(
                f"{config}: its plugin must be there, but there is no {name}; --plugin says where "
                "it lies now"
            )
        load(name)


def recorded() -> list[dict[str, str]]:
    """For config.json: each that is loaded, with a digest of its file."""
    found = []
    for name, plugin in _loaded.items():
        file = sys.modules[name].__file__
        content = b"" if file is None else Path(file).read_bytes()
        found.append({"plugin": plugin, "sha256": hashlib.sha256(content).hexdigest()})
    return found


def _means_another(path: Path) -> bool:
    if path.stem in sys.modules:
        return True
    spec = importlib.util.find_spec(path.stem)
    return spec is not None and (spec.origin is None or Path(spec.origin).resolve() != path)


def _from_file(path: Path) -> ModuleType:
    # Last, where it hides no module: for what the file imports from beside it, and so that workers
    # that are not forked find it.
    sys.path.append(str(path.parent))
    try:
        return importlib.import_module(path.stem)
    except BaseException:
        sys.path.remove(str(path.parent))
        raise


def _import(plugin: str, imported: Callable[[], ModuleType]) -> None:
    try:
        imported()
    except UsageError as error:
        raise UsageError(f"--plugin {plugin}: {error}") from None
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(
            f"--plugin must be importable, got {plugin}: {reason} ({frame.filename}, line "
            f"{frame.lineno})"
        ) from error
