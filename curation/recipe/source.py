"""The text of a recipe as plain data that remembers the line of every key and the variables in its values."""

from __future__ import annotations

import base64
import binascii
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

from curation.errors import Problem

KeyPath: TypeAlias = tuple[Any, ...]
"""Keys and list indices that lead to a value, such as ``("stages", 0, "k")``."""

TOP_KEYS = ("recipe", "name", "seed", "inputs", "stages", "expect", "feed", "output", "outputs")

_MAX_NODES = 100_000  # anchors can multiply a small text without end
_TAG = "tag:yaml.org,2002:"
_VARIABLE = re.compile(r"\$\$\{|\$\{([^}]*)\}?")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHOWN_CHARS = 60


class _Loader(yaml.SafeLoader):
    """Composes nodes with the plain scalars of YAML 1.2: ``no`` is text, ``1e-3`` and ``inf`` are numbers."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012


for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", "~nN\0"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.?(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+.iI"),
    ("merge", r"<<", "<"),
):
    _Loader.add_implicit_resolver(
        _TAG + _tag, re.compile(f"(?:{_pattern})\\Z"), ["" if c == "\0" else c for c in _first]
    )


@dataclass(frozen=True)
class Mark:
    """Where a key stands."""

    file: str
    line: int


@dataclass
class Source:
    """A recipe as data, with the place of every key.

    Attributes
    ----------
    file
        Name of the recipe as problems show it.
    data
        The recipe with variables filled in and overrides applied.
    marks
        Place of the key (or list item) by key path.
    written
        Text of a value as it was written, for values that hold variables.
    """

    file: str
    data: Any = None
    marks: dict[KeyPath, Mark] = field(default_factory=dict)
    written: dict[KeyPath, str] = field(default_factory=dict)

    def mark(self, path: KeyPath) -> Mark:
        """Find the place of a key, or of what holds it where the key itself is not written."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.marks:
                return self.marks[path[:length]]
        return self.marks.get((), Mark(self.file, 1))

    def problem(self, path: KeyPath, message: str, hint: str = "") -> Problem:
        """Make a problem that names the file, the line and the key."""
        mark = self.mark(path)
        return Problem(mark.file, mark.line, self.spell(path), message, hint)

    def spell(self, path: KeyPath) -> str:
        """Write a key path as ``stages[0].k``."""
        text, here = "", self.data
        for key in path:
            inside_list = isinstance(key, int) and not isinstance(here, dict)
            text += f"[{key}]" if inside_list else f".{key}"
            try:
                here = here[key]
            except (LookupError, TypeError):
                here = None
        return text.removeprefix(".") or "recipe"

    def restored(self, value: Any, path: KeyPath) -> Any:
        """Put variables back into a value that was read at ``path``."""
        if path in self.written:
            return self.written[path]
        if isinstance(value, dict):
            return {key: self.restored(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.restored(item, (*path, i)) for i, item in enumerate(value)]
        return value

    def shown(self, value: Any, path: KeyPath) -> str:
        """Write a value for a message, without the contents of variables."""
        text = _flow(self.restored(value, path))
        return text if len(text) <= _SHOWN_CHARS else f"{text[: _SHOWN_CHARS - 3]}..."


def read_source(
    text: str, *, file: str, overrides: Sequence[str] = (), env: Mapping[str, str]
) -> tuple[Source, list[Problem]]:
    """Read YAML, fill in variables and apply overrides; the problems come with the data that is sound."""
    reader = _Reader(Source(file), env)
    try:
        node = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, RecursionError) as error:
        return reader.source, [_syntax_problem(file, error, text)]
    if node is None:
        return reader.source, [Problem(file, 1, "recipe", "the file is empty", "begin with `recipe: 1`")]
    reader.source.data = reader.read(node, (), file)
    if isinstance(reader.source.data, dict):
        for number, override in enumerate(overrides, 1):
            reader.override(override, Mark("--set", number))
    return reader.source, reader.problems()


def nearest(name: str, names: Iterable[Any]) -> str:
    """Hint that names the nearest of ``names``, or all of them."""
    known = [str(known) for known in names]
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(known)}" if known else ""


@dataclass
class _Reader:
    """Turns nodes into data; what is wrong is noted and left out."""

    source: Source
    env: Mapping[str, str]
    _findings: list[tuple[KeyPath, Mark, str, str]] = field(default_factory=list)
    _open: set[int] = field(default_factory=set)
    _nodes: int = 0

    def problems(self) -> list[Problem]:
        return [
            Problem(mark.file, mark.line, self.source.spell(path), message, hint)
            for path, mark, message, hint in self._findings
        ]

    def note(self, path: KeyPath, mark: Mark, message: str, hint: str = "") -> None:
        self._findings.append((path, mark, message, hint))

    def read(self, node: yaml.Node, path: KeyPath, file: str, line: int = 0) -> Any:
        mark = Mark(file, line or node.start_mark.line + 1)
        self.source.marks.setdefault(path, mark)
        self._nodes += 1
        if id(node) in self._open:
            self.note(path, mark, "an anchor may not hold itself")
            return None
        if self._nodes > _MAX_NODES:
            if self._nodes == _MAX_NODES + 1:
                self.note(path, mark, f"more than {_MAX_NODES} values", "anchors repeat what they name")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path, mark)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
                return self._mapping(node, path, file, line)
            if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
                return [self.read(item, (*path, i), file, line) for i, item in enumerate(node.value)]
        except RecursionError:
            self.note(path[:3], self.source.mark(path[:3]), "nested too deeply")
            return None
        finally:
            self._open.discard(id(node))
        self.note(path, mark, f"tag {node.tag.replace(_TAG, '!!')} is not allowed")
        return None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath, file: str, line: int) -> dict[Any, Any]:
        result: dict[Any, Any] = {}
        lines: dict[Any, int] = {}
        for key_node, value_node in sorted(node.value, key=lambda pair: pair[0].tag != _TAG + "merge"):
            key_mark = Mark(file, line or key_node.start_mark.line + 1)
            if key_node.tag == _TAG + "merge":
                self._merge(result, value_node, path, file, line)
                continue
            key = self._key(key_node, path, key_mark)
            if key is None:
                continue
            here = (*path, key)
            if key in lines:
                self.note(here, key_mark, f"duplicate key; it stands on line {lines[key]} already")
                continue
            lines[key] = key_mark.line
            self._forget(here)
            self.source.marks[here] = key_mark
            result[key] = self.read(value_node, here, file, line)
        return result

    def _merge(self, result: dict[Any, Any], node: yaml.Node, path: KeyPath, file: str, line: int) -> None:
        """Add the keys of ``<<: *anchor`` (or of a list of anchors; the first one wins)."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for part in reversed(parts):
            merged = self.read(part, path, file, line)
            if isinstance(merged, dict):
                result.update(merged)
            else:
                self.note(path, Mark(file, line or part.start_mark.line + 1), "<<: expected a mapping")

    def _key(self, node: yaml.Node, path: KeyPath, mark: Mark) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            self.note(path, mark, "keys are names or numbers, not lists or mappings")
            return None
        key = self._plain(node.tag, node.value, path, mark)
        if key is None or key != key:
            self.note(path, mark, "a key is empty", "quote it if it is meant as text")
            return None
        return key

    def _scalar(self, node: yaml.ScalarNode, path: KeyPath, mark: Mark) -> Any:
        tag, text = node.tag, node.value
        if tag == _TAG + "str" and "${" in text:
            text, filled = self._filled(text, path, mark)
            self.source.written[path] = node.value
            if filled and node.style is None:  # an unquoted ${K} may be a number
                tag = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))
                tag = tag if tag != _TAG + "merge" else _TAG + "str"
        return self._plain(tag, text, path, mark)

    def _filled(self, text: str, path: KeyPath, mark: Mark) -> tuple[str, bool]:
        filled = False

        def fill(match: re.Match[str]) -> str:
            nonlocal filled
            if match.group() == "$${":
                return "${"
            name = match.group(1)
            if not match.group().endswith("}") or not _VARIABLE_NAME.fullmatch(name):
                self.note(path, mark, f"expected a variable as ${{NAME}}, got '{match.group()}'", "write $${ for ${")
                return ""
            if name not in self.env:
                self.note(
                    path,
                    mark,
                    f"variable '{name}' is not set",
                    "set it in the environment; $${ stands for ${",
                )
                return ""
            filled = True
            return self.env[name]

        return _VARIABLE.sub(fill, text), filled

    def _plain(self, tag: str, text: str, path: KeyPath, mark: Mark) -> Any:
        convert = _CONVERT.get(tag.removeprefix(_TAG)) if tag.startswith(_TAG) else None
        if convert is None:
            self.note(path, mark, f"tag {tag.replace(_TAG, '!!')} is not allowed")
            return None
        try:
            return convert(text)
        except (ValueError, LookupError, binascii.Error):
            self.note(path, mark, f"expected a value of type {tag.removeprefix(_TAG)}")
            return None

    def _forget(self, path: KeyPath) -> None:
        """Drop what is known of a value that is replaced."""
        known: dict[KeyPath, Any]
        for known in (self.source.marks, self.source.written):
            for old in [old for old in known if old[: len(path)] == path]:
                del known[old]

    def override(self, text: str, mark: Mark) -> None:
        """Apply one ``KEY.KEY=VALUE``."""
        keys, equals, value = text.partition("=")
        names = keys.strip().split(".")
        try:
            node = yaml.compose(value, Loader=_Loader) or yaml.ScalarNode(_TAG + "null", "")
        except (yaml.YAMLError, RecursionError) as error:
            self.note((keys,), mark, f"not YAML: {_syntax(error)}")
            return
        if not equals or not all(names):
            self.note((text,), mark, "expected KEY=VALUE, such as stages.rare.k=7")
            return
        here = self.source.data
        path: KeyPath = ()
        for depth, name in enumerate(names):
            key = self._step(here, path, name, mark)
            if key is None:
                return
            last = depth == len(names) - 1
            if last:
                break
            if isinstance(here, dict) and here.get(key) is None:
                here[key] = {}
                self.source.marks[(*path, key)] = mark
            here, path = here[key], (*path, key)
        self._forget((*path, key))
        here[key] = self.read(node, (*path, key), mark.file, mark.line)

    def _step(self, here: Any, path: KeyPath, name: str, mark: Mark) -> Any:
        """Key of ``here`` that ``name`` stands for; None after noting a problem."""
        if isinstance(here, list):
            labels = [_label(item) for item in here] if path == ("stages",) else []
            if labels.count(name) == 1:
                return labels.index(name)
            if name.isascii() and name.isdigit() and int(name) < len(here):
                return int(name)
            if name in labels:
                self.note(
                    (*path, name),
                    mark,
                    f"several stages are called '{name}'",
                    "use the index, counted from 0",
                )
                return None
            known = labels or [str(i) for i in range(len(here))]
            self.note((*path, name), mark, "no such item", nearest(name, known))
            return None
        if not isinstance(here, dict):
            self.note((*path, name), mark, f"'{self.source.spell(path)}' has no keys of its own")
            return None
        found = [key for key in here if str(key) == name]
        if found:
            return found[0]
        if path == () and name not in TOP_KEYS:
            self.note((name,), mark, "unknown key", nearest(name, TOP_KEYS))
            return None
        if path in (("inputs",), ("outputs",)):
            self.note((*path, name), mark, f"no {path[0][:-1]} has this name", nearest(name, here))
            return None
        return self._key(
            yaml.ScalarNode(_RESOLVER.resolve(yaml.ScalarNode, name, (True, False)), name),
            path,
            mark,
        )


_RESOLVER: Any = _Loader("")


def _label(stage: Any) -> str | None:
    label = stage.get("name", default_name(stage.get("use"))) if isinstance(stage, dict) else None
    return label if isinstance(label, str) else None


def default_name(use: Any) -> Any:
    """Name of a stage that states none: that of the method, or of the class in ``module:Class``."""
    return use.rpartition(":")[2] if isinstance(use, str) else use


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def _bool(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _int(text: str) -> int:
    return int(text, 0)


_CONVERT: dict[str, Any] = {
    "null": lambda text: None,
    "bool": _bool,
    "int": _int,
    "float": _float,
    "str": str,
    "timestamp": str,
    "binary": lambda text: base64.b64decode(text.encode("ascii"), validate=False),
}


def _flow(value: Any) -> str:
    """Write a value in one line, as in a recipe."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if isinstance(value, dict):
        return "{" + ", ".join(_pairs(value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_flow(item) for item in value[:_SHOWN_CHARS]) + "]"
    if isinstance(value, int):
        return str(value) if value.bit_length() < 1000 else "a very large integer"
    return repr(value)


def _pairs(value: Mapping[Any, Any]) -> Iterator[str]:
    for key, item in list(value.items())[:_SHOWN_CHARS]:
        yield f"{key}: {_flow(item)}"


def _syntax_problem(file: str, error: Exception, text: str) -> Problem:
    mark = getattr(error, "problem_mark", None)
    position = getattr(error, "position", None)
    line = 1
    if mark is not None:
        line = mark.line + 1
    elif isinstance(position, int):
        line = text.count("\n", 0, position) + 1
    lines = text.splitlines()
    variable = mark is not None and mark.line < len(lines) and "${" in lines[mark.line]
    hint = "quote '${VAR}' inside { } and [ ]" if variable else getattr(error, "context", None) or ""
    return Problem(file, line, "recipe", f"not YAML: {_syntax(error)}", hint)


def _syntax(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    problem = getattr(error, "problem", None) or getattr(error, "reason", None)
    return str(problem or error).splitlines()[0]
