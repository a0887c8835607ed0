"""The rules that hold for every file: layers, sizes, and one module docstring each."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULE_LINES_MAX = 450
"""The aim is "about 400"; past this a module is two."""

FUNCTION_LINES_MAX = 70


def modules() -> list[Path]:
    """Those that somebody wrote."""
    found = (path for top in ("snapfs", "cli") for path in (ROOT / top).rglob("*.py"))
    return sorted(path for path in found if path.parent != ROOT / "snapfs/v1" or path.name == "__init__.py")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return [node.module]
    return []


def test_imports_go_down_only() -> None:
    lint = [f"{sysconfig.get_path('scripts')}/lint-imports", "--no-cache", "--no-logo"]
    done = subprocess.run(lint, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_both_commands_are_the_same_program() -> None:
    found = importlib.metadata.distribution("snapfs").entry_points.select(group="console_scripts")
    scripts = {script.name: script.value for script in found}
    assert scripts == {"snap": "snapfs_cli.main:main", "snapfs": "snapfs_cli.main:main"}


def test_every_import_is_a_declared_dependency() -> None:
    """What happens to be installed here is not there on the next machine.  snapfs.testing has the tests' own, and the
    file system for fsspec is for those who have that."""
    imported = {
        name.split(".")[0]
        for path in modules()
        if "testing" not in path.parts and path != ROOT / "snapfs/reader/filesystem.py"
        for node in ast.walk(ast.parse(path.read_text()))
        for name in imports_of(node)
    }
    requirements = importlib.metadata.requires("snapfs") or []
    declared = {re.split(r"[^\w-]", line)[0] for line in requirements if "extra ==" not in line}
    packages = importlib.metadata.packages_distributions().items()
    providers = {name: {provider.replace("_", "-") for provider in found} for name, found in packages}
    foreign = imported - set(sys.stdlib_module_names) - {"snapfs", "snapfs_cli"}
    assert {name for name in foreign if not declared & providers[name]} == set()
    assert declared - {provider for name in foreign for provider in providers[name]} == set()


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_module_is_small_and_documented(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    long = [
        f"{node.name}: {length} lines"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]
    assert long == []
    assert len(text.splitlines()) <= MODULE_LINES_MAX
    assert not text or ast.get_docstring(tree)
