"""Files beside the package say what it says: versions, links, the configuration of tools."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import amd_fused
from amd_fused.distill.data_sets import DATA_SETS

ROOT = Path(__file__).parents[2]
MARKDOWN = sorted(
    path.relative_to(ROOT)
    for folder in (".", "docs", "examples")
    for path in (ROOT / folder).glob("*.md")
)
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def anchors(text: str) -> set[str]:
    """Headings as GitHub makes anchors of them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", MARKDOWN, ids=str)
def test_links_lead_somewhere(path: Path) -> None:
    text = (ROOT / path).read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        goal = (ROOT / path).parent / file if file else ROOT / path
        assert goal.exists(), target
        if anchor:
            assert anchor in anchors(goal.read_text()), target


def test_the_api_page_has_every_public_name() -> None:
    shown = re.findall(r"^::: amd_fused\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.M)
    assert set(amd_fused.__all__) - {"compat", "reference"} == set(shown)


def test_every_page_is_in_the_site_s_menu() -> None:
    pages = {str(path) for path in MARKDOWN}
    menu = (ROOT / "mkdocs.yml").read_text()
    assert set(re.findall(r": ([\w/-]+\.md)$", menu, re.MULTILINE)) == pages


def test_every_data_set_of_the_trainer_is_described() -> None:
    table = (ROOT / "docs" / "data-sets.md").read_text()
    assert re.findall(r"^\| `(\w[\w-]*)` \|", table, re.MULTILINE) == list(DATA_SETS)


def test_pre_commit_uses_the_versions_of_the_constraints() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    used = {repo["repo"].rpartition("/")[2]: repo["rev"] for repo in config["repos"]}
    constraints = (ROOT / "constraints.txt").read_text()
    for tool, repository in (("ruff", "ruff-pre-commit"), ("clang-format", "mirrors-clang-format")):
        pinned = re.search(rf"^{tool}==(\S+)$", constraints, re.MULTILINE)
        assert pinned is not None
        assert used[repository] == f"v{pinned.group(1)}"


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_issue_templates_have_what_the_forge_asks_for(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert set(form) == {"name", "description", "labels", "body"}
    fields = [entry["id"] for entry in form["body"]]
    assert len(set(fields)) == len(fields)
    assert all(entry["attributes"]["label"] for entry in form["body"])


def test_the_changelog_has_the_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    versions = re.findall(r"^## \[?([\w.]+)\]?", text, re.MULTILINE)
    assert amd_fused.__version__ in versions
    assert versions[0] in ("Unreleased", amd_fused.__version__)


def test_the_citation_is_the_readme_s() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    entry = (ROOT / "README.md").read_text()
    assert f"title   = {{{citation['title']}}}" in entry
    assert f"volume  = {{{citation['volume']}}}" in entry
    assert f"pages   = {{{citation['start']}--{citation['end']}}}" in entry
    for author in citation["authors"]:
        assert f"{author['family-names']}, {author['given-names']}" in entry
