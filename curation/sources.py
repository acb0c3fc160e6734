"""A hash of the Python files that a module is made of, so that an edit of them is noticed."""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from curation.keys import content_key

_OURS = {"curation", "pydantic"}
"""Top-level packages whose versions the keys hold already, or that every stage derives from."""


class SourceError(Exception):
    """A module whose source cannot be found."""


def source_key(modules: Iterable[str]) -> str:
    """Hash the source of modules that are loaded.

    That is the file of a module, or all Python files of the package that it lies in. To a module outside of the
    installed packages (beside a recipe, on PYTHONPATH) belongs also what it imports from its own directory.

    Parameters
    ----------
    modules
        Names of modules; those of the standard library and our own are left out.

    Raises
    ------
    SourceError
        If one has no file.
    """
    files: dict[str, Path] = {}
    for name in sorted(modules):
        if name.partition(".")[0] not in _OURS | sys.stdlib_module_names:
            files |= _files(name)
    return content_key(
        "source", [[name, hashlib.sha256(files[name].read_bytes()).hexdigest()] for name in sorted(files)]
    )


def _files(module: str) -> dict[str, Path]:
    """Files of a module by their path below the directory that it was imported from."""
    home, start = _place(module)
    found: dict[str, Path] = {}
    waiting = [start]
    while waiting:
        for path in _python(waiting.pop()):
            name = path.relative_to(home).as_posix()
            if name not in found:
                found[name] = path
                waiting += [] if _is_installed(home) else _neighbours(path, home)
    return found


def _place(module: str) -> tuple[Path, Path]:
    """Directory from which a module was imported, and its file, or its outermost package that is not a namespace."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        loaded = sys.modules.get(".".join(parts[:depth]))
        file = getattr(loaded, "__file__", None)
        if file is not None:
            path = Path(file).parent if hasattr(loaded, "__path__") else Path(file)
            if path.exists():
                return path.parents[depth - 1], path
            break
    raise SourceError(f"the source of module '{module}' cannot be found")


def _python(path: Path) -> Iterator[Path]:
    if path.is_dir():
        yield from path.rglob("*.py")
    else:
        yield path


def _is_installed(home: Path) -> bool:
    places = {os.path.realpath(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib", "platstdlib")}
    return any(os.path.realpath(each) in places for each in (home, *home.parents))


def _neighbours(path: Path, home: Path) -> list[Path]:
    """Modules and packages of the directory ``home`` that a file imports, wherever in it that stands."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return []
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    tops = {name.partition(".")[0] for name in names} - _OURS
    return [found for top in sorted(tops) for found in (home / f"{top}.py", home / top) if found.exists()]
