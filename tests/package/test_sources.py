"""What setup.py compiles of csrc."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("library", ["cpp", "cuda"])
def test_every_source_has_an_object_file_of_its_own(library: str) -> None:
    """It is named as the source is, without the suffix: kd.cpp beside kd.cu would not build."""
    pytest.importorskip("setuptools")
    found = importlib.util.spec_from_file_location("extensions", ROOT / "csrc" / "extensions.py")
    extensions = importlib.util.module_from_spec(found)
    found.loader.exec_module(extensions)
    declared = extensions._extension(library, {"cpp": "cpu", "cuda": "cuda"}[library])
    objects = Counter(Path(source).with_suffix("") for source in declared.sources)
    assert len(objects) >= 10
    assert [path for path, count in objects.items() if count > 1] == []
