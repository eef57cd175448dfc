"""Docstrings are written in reStructuredText's few signs; the site's pages are Markdown."""

import importlib
import inspect
import re
from typing import Any

import griffe

NOTHING = inspect.Parameter.empty


class Markdown(griffe.Extension):
    """Roles become code, and the two colons before a block one."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        text = re.sub(r":(?:func|class|mod|meth):`~?([\w.]+)`", r"`\1`", obj.docstring.value)
        obj.docstring.value = re.sub(r"::$", ":", text, flags=re.MULTILINE)


class Signatures(griffe.Extension):
    """Of a loss decorated with ``takes``: its options by name, with their defaults."""

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        if any(str(decorator.value).startswith("takes(") for decorator in func.decorators):
            loss = getattr(importlib.import_module(func.module.path), func.name)
            shown = inspect.signature(loss).parameters.values()
            func.parameters = griffe.Parameters(*map(parameter, shown))


def parameter(shown: inspect.Parameter) -> griffe.Parameter:
    kind = griffe.ParameterKind[shown.kind.name.lower()]
    default = None if shown.default is NOTHING else repr(shown.default)
    annotation = None if shown.annotation is NOTHING else str(shown.annotation)
    return griffe.Parameter(shown.name, annotation=annotation, kind=kind, default=default)
