"""docs/security.md names a test for each rule: those tests exist, and no rule is without one."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
ROWS = [
    line.strip("| ").split(" | ")
    for line in PAGE.splitlines()
    if line.startswith("| ") and not line.startswith("| Rule")
]


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def test_the_page_has_rules() -> None:
    assert len(ROWS) > 80


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:60])
def test_each_rule_names_tests_that_exist(row: list[str]) -> None:
    _rule, tests = row
    names = re.findall(r"`([^`]+)`", tests)

    assert names
    path = ""
    for name in names:
        file, _, test = name.partition("::")
        path = file or path
        assert (ROOT / path).is_file(), name
        assert test in names_in(path), name
