"""Docstrings are written in reStructuredText's few signs; the site's pages are Markdown."""

import re
from typing import Any

import griffe


class Markdown(griffe.Extension):
    """Roles become code, and the two colons before a block one."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is None:
            return
        text = re.sub(r":(?:func|class|mod|meth):`~?([\w.]+)`", r"`\1`", obj.docstring.value)
        obj.docstring.value = re.sub(r"::$", ":", text, flags=re.MULTILINE)
