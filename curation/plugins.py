"""Stages that are not ours: named by an installed package or as ``module:Attr``, imported only when that is allowed."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from curation.keys import content_key
from curation.methods.base import Params
from curation.sources import SourceError, source_key

GROUP = "curation.stages"
"""Group of entry points in which a package names its stages, ``name = "module:Attr"``."""

STAGE_KEYS = ("name", "use", "from")
"""Keys of every stage, which no plug-in can have as options of its own."""

_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")
_FOUND_IN = "modules are looked for beside the recipe, on PYTHONPATH and among the installed packages"
_ANEW = "start Python anew (in a notebook: restart the kernel)"


class PluginError(Exception):
    """A plug-in that cannot be found, or is none; ``hint`` says how to mend it."""

    def __init__(self, message: str, hint: str = "") -> None:
        self.hint = hint
        super().__init__(message)


@dataclass(frozen=True)
class Origin:
    """What is known of a plug-in before anything of it is imported.

    Parameters
    ----------
    use
        As the recipe names it.
    target
        ``module:Attr``.
    package, version
        The installed package that names it; empty for a ``module:Attr`` of the recipe.
    """

    use: str
    target: str
    package: str = ""
    version: str = ""

    @property
    def module(self) -> str:
        """Name of the module."""
        return self.target.partition(":")[0]

    def __str__(self) -> str:
        return f"package {self.package} {self.version}" if self.package else f"module {self.module}"


@dataclass(frozen=True)
class Plugin:
    """A plug-in that is loaded; ``source`` is a hash of its Python files."""

    origin: Origin
    stage: type[Any]
    params: type[Params]
    source: str

    @property
    def key(self) -> str:
        """Content key of the code: other code, or another version of its package, gives another one."""
        return content_key("plug-in", self.origin.target, self.origin.package, self.origin.version, self.source)

    def wire(self) -> tuple[str, str, str, str]:
        """What other processes need to look for it: name, target, package and content key, no classes."""
        return self.origin.use, self.origin.target, self.origin.package, self.key

    def record(self) -> dict[str, str]:
        """What the manifest says of it."""
        origin = self.origin
        return {
            "use": origin.use,
            "target": origin.target,
            "package": origin.package,
            "version": origin.version,
            "source": self.source,
        }


# Finding: imports nothing


def installed() -> dict[str, list[Origin]]:
    """List the plug-ins of installed packages by name, from their metadata alone."""
    from importlib.metadata import entry_points

    found: dict[str, list[Origin]] = {}
    for each in entry_points(group=GROUP):
        package, version = (each.dist.name, each.dist.version) if each.dist else ("", "")
        origin = Origin(each.name, each.value.partition("[")[0].replace(" ", ""), package, version)
        found.setdefault(each.name, []).append(origin)
    return {name: sorted(found[name], key=str) for name in sorted(found)}


def find(use: str) -> Origin | None:
    """Find what a name stands for; ``None`` if it is neither ``module:Attr`` nor the name of an installed plug-in.

    Raises
    ------
    PluginError
        If two packages have the name, or it is nearly a ``module:Attr``.
    """
    if ":" in use:
        if not _TARGET.fullmatch(use):
            raise PluginError(f"expected module:Attr, got {use!r}", "e.g. use: my_stages:Shout, from my_stages.py")
        return Origin(use, use)
    origins = installed().get(use, [])
    if len(origins) > 1:
        raise PluginError(
            f"{use!r} is a plug-in of two packages, {origins[0].package} {origins[0].version} and "
            f"{origins[1].package} {origins[1].version}",
            f"uninstall one of them, or name the stage itself: use: {origins[0].target}",
        )
    return origins[0] if origins else None


# Loading: imports, so only what is allowed


_LOADED: dict[str, str] = {}
"""Hash of the source of each plug-in as this process has loaded it, by target."""


def load(origin: Origin, root: str = "") -> Plugin:
    """Import a plug-in.

    Parameters
    ----------
    origin
        What :func:`find` gave.
    root
        Directory of the recipe, which goes first on ``sys.path`` for a ``module:Attr`` and stays there, since worker
        processes get the path of this one.

    Raises
    ------
    PluginError
        If it does not import, is no stage, names no options, or is not what this process has loaded before.
    """
    if not _TARGET.fullmatch(origin.target):
        raise PluginError(f"{origin}: expected an entry point module:Attr, got {origin.target!r}", "tell its author")
    if origin.module == "__main__":
        raise PluginError("workers cannot import '__main__'", "move the stage into a module of its own")
    if root and not origin.package and root not in sys.path:
        sys.path.insert(0, root)
    before = set(sys.modules)
    try:
        stage = _attribute(_imported(origin.module), origin.target)
        params = _params_of(stage, origin.target)
        _refuse_other(origin.module, root if not origin.package else "")
    except PluginError:
        if origin.module not in before:  # so that a mended module is read anew by a process that lives on
            sys.modules.pop(origin.module, None)
        raise
    return Plugin(origin, stage, params, _source_as_loaded(origin, stage, params))


def _imported(module: str) -> Any:
    try:
        with _no_bytecode():
            return import_module(module)
    except (Exception, SystemExit) as error:
        lacks = isinstance(error, ModuleNotFoundError) and error.name in (module, module.partition(".")[0])
        raise PluginError(f"module '{module}' cannot be imported: {told(error)}", _FOUND_IN if lacks else "") from error


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """Keep Python from caching bytecode: it knows a source by its second and size, so a quick edit goes unnoticed."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def told(error: BaseException) -> str:
    """Write an error of foreign code in one line, with the place it comes from."""
    text = " ".join(str(error).split())
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    own = (__file__, importlib.__file__)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename not in own and f.filename[0] != "<"]
    if isinstance(error, SyntaxError) or not frames:
        return text
    return f"{text} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"


def _attribute(module: Any, target: str) -> Any:
    found, names = module, target.partition(":")[2].split(".")
    for name in names:
        if not hasattr(found, name):
            near = get_close_matches(name, dir(found), 1)
            raise PluginError(
                f"module '{module.__name__}' has no '{'.'.join(names)}'", f"did you mean {near[0]!r}?" if near else ""
            )
        found = getattr(found, name)
    return found


def _params_of(stage: Any, target: str) -> type[Params]:
    from curation.stages.base import Stage

    name = target.partition(":")[2]
    if not (isinstance(stage, type) and issubclass(stage, Stage)):
        kind = "a class" if isinstance(stage, type) else f"of type {type(stage).__name__}"
        raise PluginError(f"'{name}' is {kind} and not a stage", "derive it from curation.stages.base.Stage")
    if inspect.isabstract(stage):
        lacking = ", ".join(sorted(stage.__abstractmethods__))
        raise PluginError(f"stage '{name}' lacks {lacking}", "see the docstrings of curation.stages.base")
    params = getattr(stage, "params_type", None)
    if not (isinstance(params, type) and issubclass(params, Params)):
        raise PluginError(f"stage '{name}' names no options", "add `params_type = YourParams` to the class, a Params")
    if taken := [key for key in STAGE_KEYS if key in params.model_fields]:
        raise PluginError(f"option '{taken[0]}' of stage '{name}' is a key of every stage", "give it another name")
    return params


def _refuse_other(module: str, root: str) -> None:
    """Refuse a module that another recipe of this process has brought, where this recipe's has the same name."""
    if not root:
        return
    top = module.partition(".")[0]
    beside = PathFinder.find_spec(top, [root])
    loaded = getattr(sys.modules[top], "__spec__", None)
    if beside is None or loaded is None or beside.origin is None or loaded.origin is None:
        return
    if os.path.realpath(beside.origin) != os.path.realpath(loaded.origin):
        raise PluginError(
            f"this process has loaded another module '{top}', {loaded.origin}", f"rename {beside.origin}, or {_ANEW}"
        )


def _source_as_loaded(origin: Origin, stage: type[Any], params: type[Params]) -> str:
    classes = [each for kind in (stage, params) for each in kind.__mro__]
    try:
        found = source_key({origin.module, *(each.__module__ for each in classes)})
    except SourceError as error:
        if not origin.package:
            raise PluginError(str(error), "an edit would go unnoticed; use a module that lies in a .py file") from None
        found = ""  # the version of the package has to do
    first = _LOADED.setdefault(origin.target, found)
    if first != found:
        raise PluginError(f"module '{origin.module}' was changed after this process had loaded it", _ANEW)
    return found


# Other processes, and errors


def lacking(wanted: Iterable[Sequence[str]]) -> str:
    """Say what this process lacks of the plug-ins (:meth:`Plugin.wire`) of another one; empty if it has them all."""
    for use, target, package, key in wanted:
        try:
            here = load(Origin(use, target, package, _version_here(package)))
        except PluginError as error:
            return f"plug-in '{use}': {error}"
        if here.key != key:
            return f"has other code of plug-in '{use}' than this process ({here.origin})"
    return ""


def _version_here(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package) if package else ""
    except PackageNotFoundError:
        raise PluginError(f"package {package} is not installed") from None


def culprit(error: BaseException) -> str:
    """Target of the plug-in in whose code an error was raised or passed on; empty if there is none."""
    targets = {target.partition(":")[0].partition(".")[0]: target for target in _LOADED}
    names = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((targets[top] for top in (name.partition(".")[0] for name in reversed(names)) if top in targets), "")
