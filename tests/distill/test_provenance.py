"""The commit that results name: of the package's own checkout, or what the environment says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from amd_fused.distill import provenance


@pytest.fixture(autouse=True)
def asked_for_anew() -> Iterator[None]:
    provenance.commit.cache_clear()
    yield
    provenance.commit.cache_clear()


@pytest.mark.parametrize("top", ["", "/somewhere/else"])
def test_commit_is_taken_from_the_environment_where_there_is_no_checkout(
    monkeypatch: pytest.MonkeyPatch, top: str
) -> None:
    monkeypatch.setattr(provenance, "_git", lambda folder, *arguments: top)
    monkeypatch.delenv("AMD_FUSED_COMMIT", raising=False)
    assert provenance.commit() is None
    provenance.commit.cache_clear()
    monkeypatch.setenv("AMD_FUSED_COMMIT", "0123456789ab")
    assert provenance.commit() == "0123456789ab"


@pytest.mark.parametrize(("status", "shown"), [("", "0123abc"), (" M setup.py", "0123abc-dirty")])
def test_commit_tells_of_tracked_files_that_differ(
    monkeypatch: pytest.MonkeyPatch, status: str, shown: str
) -> None:
    def git(folder: object, *arguments: str) -> str:
        answers = {"--show-toplevel": str(folder), "HEAD": "0123abc"}
        return answers.get(arguments[-1], status)

    monkeypatch.setattr(provenance, "_git", git)
    assert provenance.commit() == shown
    status = "as of a commit since"
    assert provenance.commit() == shown
