"""What Ghost's own code never does with bytes from outside, read from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

PACKAGE = Path(__file__).parent.parent / "ghost"
TREES = {
    str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8"))
    for path in PACKAGE.rglob("*.py")
}

UNPICKLING = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "marshal", "shelve"}
FETCHING = {"urllib.request", "http.client", "requests", "httpx", "aiohttp", "urllib3", "ftplib"}
# The supervisor of `make run` asks the API that it has started whether it is there. Certificates of
# SNS come from the one host that speaks for the configured topic, and mails go to SendGrid's API.
MAY_FETCH = {"supervisor.py", "mail/sns.py", "mail/providers/sendgrid.py"}
EVALUATING = {"eval", "exec", "compile", "__import__"}
SHELLS = {"system", "popen"}
LEVELS = {"trace", "debug", "info", "success", "warning", "error", "critical", "exception"}


def calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that a file imports, `from a import b` as `a` and as `a.b`, and when needed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from (str(name.value) for name in node.args if isinstance(name, ast.Constant))
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_the_package_is_read() -> None:
    assert {"app.py", "auth/views.py", "jobs/worker.py"} <= set(TREES)


def test_nothing_is_unpickled() -> None:
    found = [(file, name) for file, tree in TREES.items() for name in imported(tree)]

    assert [(file, name) for file, name in found if name.split(".")[0] in UNPICKLING] == []


def test_no_address_is_fetched() -> None:
    found = {
        file
        for file, tree in TREES.items()
        for name in imported(tree)
        for library in FETCHING
        if name == library or name.startswith(f"{library}.")
    }

    assert found == MAY_FETCH


def test_nothing_is_evaluated_or_given_to_a_shell() -> None:
    found = []
    for file, tree in TREES.items():
        for call in calls(tree):
            name = call.func.id if isinstance(call.func, ast.Name) else None
            if name in EVALUATING:
                found.append((file, call.lineno, name))
            if isinstance(call.func, ast.Attribute) and call.func.attr in SHELLS:
                found.append((file, call.lineno, call.func.attr))
            if any(keyword.arg == "shell" for keyword in call.keywords):
                found.append((file, call.lineno, "shell="))

    assert found == []


def test_the_text_of_a_log_line_is_fixed() -> None:
    """What users sent goes into fields: in the text, braces of theirs would be read as ours."""
    found = [
        (file, call.lineno)
        for file, tree in TREES.items()
        for call in calls(tree)
        if isinstance(call.func, ast.Attribute)
        and call.func.attr in LEVELS
        and ast.unparse(call.func.value).startswith("log")
        and call.args
        and not is_fixed(call.args[0])
    ]

    assert found == []


def test_no_statement_is_put_together_from_text() -> None:
    """`text()` takes a constant, or one that is made of our own constants alone."""
    found = [
        (file, call.lineno)
        for file, tree in TREES.items()
        for call in calls(tree)
        if ast.unparse(call.func) in ("sa.text", "sqlalchemy.text", "text")
        and not is_fixed(call.args[0])
    ]

    assert {file for file, _ in found} <= {"jobs/ledger.py", "migrate.py"}


def is_fixed(node: ast.expr) -> bool:
    """Whether an expression is text that stands in the source."""
    if isinstance(node, ast.IfExp):
        return is_fixed(node.body) and is_fixed(node.orelse)
    return isinstance(node, ast.Constant)
