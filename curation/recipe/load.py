"""From the text of a recipe to the typed recipe, with every problem in one go."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from curation.errors import Problem, RecipeError
from curation.methods import FEEDS, STAGES, params_of
from curation.methods.base import Params
from curation.plugins import Plugin, PluginError, find, installed, load
from curation.recipe.faults import validated
from curation.recipe.model import OUTPUT, FeedSpec, Gate, InputSpec, OutputSpec, Recipe, StageSpec
from curation.recipe.source import KeyPath, Source, default_name, nearest, read_source
from curation.recipe.sql import expression_faults, input_expressions, stage_expressions

M = TypeVar("M", bound=BaseModel)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_NAME_RULE = "letters, digits, '_' and '-', not a digit or '-' first"


def load_recipe(
    path: str | os.PathLike[str],
    *,
    overrides: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    allow_plugins: bool = False,
) -> Recipe:
    """Load a recipe and check all that can be checked without data.

    Parameters
    ----------
    path
        The recipe, a YAML file.
    overrides
        Changes such as ``stages.rare.k=7``, as ``--set`` takes them.
    env
        Variables that ``${VAR}`` stands for; default: the environment.
    allow_plugins
        Import stages that are not ours, which runs their code.

    Raises
    ------
    RecipeError
        With all problems, in the order of the file.
    """
    file = os.fspath(path)
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RecipeError(f"{file}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeError) else error
        raise RecipeError(f"{file}: cannot be read: {reason}") from None
    source, problems = read_source(text, file=file, overrides=overrides, env=os.environ if env is None else env)
    root = os.path.dirname(os.path.abspath(file))
    check = _Check(source, root=root, allow_plugins=allow_plugins, problems=list(problems))
    recipe = check.recipe()
    if recipe is None:
        unread = {(p.file, p.line, p.path) for p in problems}  # what follows from these says nothing new
        found = problems + [p for p in check.problems if (p.file, p.line, p.path) not in unread]
        raise RecipeError(sorted(dict.fromkeys(found), key=lambda p: (p.file != source.file, p.line)))
    return recipe


class _Top(BaseModel):
    """Top level of a recipe; the parts are checked one by one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    recipe: Literal[1] = Field(description="version of the format: 1")
    name: str = Field(min_length=1, description="name of the data set")
    seed: int = Field(ge=0, lt=2**64, description="seed of all randomness, 0 <= seed < 2^64")
    inputs: dict[str, Any] = Field(min_length=1, description="tables to read: a path and options by name")
    stages: list[Any] | None = Field(default=None, description="list of methods, each reads the one before it")
    expect: list[Any] | None = Field(default=None, description="list of limits that the result has to keep")
    feed: Any = Field(default=None, description="how a trainer visits the result")
    output: Any = Field(default=None, description="where the result goes")
    outputs: dict[str, Any] | None = Field(default=None, min_length=1, description="several results by name")


@dataclass(frozen=True)
class _Stage:
    """A stage whose parts may be wrong: what is None could not be told."""

    index: int
    raw: dict[Any, Any]
    use: str | None = None
    name: str | None = None
    params: Params | None = None
    plugin: Plugin | None = None

    @property
    def path(self) -> KeyPath:
        return ("stages", self.index)

    @property
    def ports(self) -> tuple[str, ...] | None:
        return None if self.params is None else self.params.ports()


@dataclass
class _Check:
    """Checks a recipe part by part and notes every problem."""

    source: Source
    root: str
    allow_plugins: bool
    problems: list[Problem] = field(default_factory=list)

    def note(self, path: KeyPath, message: str, hint: str = "") -> None:
        self.problems.append(self.source.problem(path, message, hint))

    @property
    def single(self) -> bool:
        """Whether there is one output, and not `outputs`."""
        return self.source.data.get(OUTPUT) is not None

    def part(self, model: type[M], data: Any, path: KeyPath, **options: Any) -> M | None:
        found, problems = validated(model, data, source=self.source, path=path, **options)
        self.problems += problems
        return found

    def recipe(self) -> Recipe | None:
        """Check everything; None if the recipe cannot be made of what is sound."""
        data = self.source.data
        if not isinstance(data, dict):
            if not self.problems:
                self.note((), "expected a mapping, got " + self.source.shown(data, ()))
            return None
        top = self.part(_Top, data, ())
        inputs = self.inputs(_mapping(data.get("inputs")))
        stages = self.stages(_list(data.get("stages")), data)
        sources = self.sources(stages, _mapping(data.get("inputs")))
        sides = self.sides(stages, _mapping(data.get("inputs")))
        order = self.order(stages, sources, sides, _mapping(data.get("inputs")))
        gates = [self.part(Gate, gate, ("expect", i)) for i, gate in enumerate(_list(data.get("expect")))]
        outputs = self.outputs(data, stages)
        self.gate_outputs(gates, outputs)
        self.paths(inputs, outputs)
        self.sql(inputs, stages)
        if self.problems or top is None:
            return None
        specs = tuple(
            StageSpec(
                name=s.name,
                use=s.use,
                sources=sources[s.name],
                sides=sides.get(s.name, {}),
                params=s.params,
                index=s.index,
                plugin=s.plugin,
            )
            for s in order
            if s.name is not None and s.use is not None and s.params is not None
        )
        recipe = Recipe(
            recipe=top.recipe,
            name=top.name,
            seed=top.seed,
            inputs={name: self.resolved(spec) for name, spec in inputs.items()},
            stages=specs,
            expect=tuple(gate for gate in gates if gate is not None),
            outputs=tuple(o.model_copy(update={"path": self.absolute(o.path)}) for o in outputs.values()),
            file=self.source.file,
            root=self.root,
        )
        recipe._source = self.source
        return recipe

    # --- inputs

    def inputs(self, raw: Mapping[Any, Any]) -> dict[str, InputSpec]:
        found = {}
        for name, options in raw.items():
            path = ("inputs", name)
            if self.good_name(name, path, "the name of an input"):
                spec = self.part(InputSpec, options, path)
                if spec is not None:
                    found[str(name)] = spec
        return found

    def good_name(self, name: Any, path: KeyPath, what: str) -> bool:
        if isinstance(name, str) and _NAME.fullmatch(name):
            return True
        self.note(path, f"expected {what}, got {self.source.shown(name, path)}", _NAME_RULE)
        return False

    # --- stages

    def stages(self, raw: Sequence[Any], data: Mapping[Any, Any]) -> list[_Stage]:
        stages = [self.stage(i, options) for i, options in enumerate(raw)]
        taken: dict[str, _Stage] = {}
        for stage in stages:
            if stage.name is None:
                continue
            path = (*stage.path, "name" if "name" in stage.raw else "use")
            if stage.name in _mapping(data.get("inputs")):
                self.note(
                    path,
                    f"name '{stage.name}' is the name of an input already",
                    "give the stage another `name`",
                )
            if stage.name in taken:
                other = self.source.mark(taken[stage.name].path).line
                message = f"name '{stage.name}' is taken by the stage on line {other}"
                self.note(path, message, "give one of the two a `name`")
            taken.setdefault(stage.name, stage)
        return stages

    def stage(self, index: int, options: Any) -> _Stage:
        path = ("stages", index)
        if not isinstance(options, dict):
            self.note(path, f"expected a mapping of options, got {self.source.shown(options, path)}", "use: METHOD")
            return _Stage(index, {})
        use = options.get("use")
        model, plugin = self.method(use, (*path, "use"))
        name = options.get("name", default_name(use))
        if "name" in options and not self.good_name(name, (*path, "name"), "the name of a stage"):
            name = None
        if "name" not in options and plugin is not None and not _NAME.fullmatch(name):
            self.note((*path, "name"), f"field required, since {name!r} cannot be the name of a stage", _NAME_RULE)
            name = None
        params = None
        if model is not None:
            params = self.part(model, options, path, known=("name", "use", "from"))
        use = None if model is None else use
        return _Stage(index, options, use, name if isinstance(name, str) else None, params, plugin)

    def method(self, use: Any, path: KeyPath) -> tuple[type[Params] | None, Plugin | None]:
        """Find the options of what a `use` names, and the plug-in if it is one; None after noting a problem."""
        if use is None:
            self.note(path, "field required", f"methods: {', '.join(sorted(STAGES))}")
            return None, None
        if isinstance(use, str) and use in STAGES:
            return params_of(use), None
        try:
            plugin = self.plugin(use) if isinstance(use, str) and use not in FEEDS else None
        except PluginError as error:
            self.note(path, str(error), error.hint)
            return None, None
        if plugin is None:
            self.note(path, f"unknown method, got {self.source.shown(use, path)}", _method_hint(use))
            return None, None
        return plugin.params, plugin

    def plugin(self, use: str) -> Plugin | None:
        origin = find(use)
        if origin is None:
            return None
        if not self.allow_plugins:
            raise PluginError(
                f"'{use}' is a plug-in of {origin}; plug-ins run code, allow them with --allow-plugins",
                "in Python: allow_plugins=True; do so only if you trust its author",
            )
        return load(origin, self.root)

    # --- the graph

    def sources(self, stages: Sequence[_Stage], inputs: Mapping[Any, Any]) -> dict[str | None, tuple[str, ...]]:
        """Find the references that flow into each stage, by the name of the stage."""
        names = {stage.name: stage for stage in stages if stage.name is not None}
        sources: dict[str | None, tuple[str, ...]] = {}
        for stage in stages:
            path = (*stage.path, "from")
            given = stage.raw.get("from")
            if isinstance(given, list) and stage.params is not None and stage.params.many:
                found = [self.reference(each, (*path, i), names, inputs) for i, each in enumerate(given)]
                if len(given) < 2:
                    self.note(path, f"expected two or more to put together, got {len(given)}", "from: [a, b]")
                if twice := sorted({str(each) for each in given if given.count(each) > 1}):
                    self.note(path, f"'{twice[0]}' is named twice", "name each once")
            elif "from" in stage.raw:
                found = [self.reference(given, path, names, inputs)]
                if stage.params is not None and stage.params.many:
                    self.note(path, "expected a list of two or more to put together", "from: [a, b]")
            elif stage.index > 0:
                before = stages[stage.index - 1].name
                found = [None if before is None else self.reference(before, path, names, inputs)]
            else:
                found = [self.only_input(path, inputs)]
            flowing = tuple(each for each in found if each is not None)
            if len(flowing) == len(found):
                sources.setdefault(stage.name, flowing)
        return sources

    def sides(self, stages: Sequence[_Stage], inputs: Mapping[Any, Any]) -> dict[str | None, dict[str, str]]:
        """Find the references in which stages look things up, by stage and option."""
        names = {stage.name: stage for stage in stages if stage.name is not None}
        found: dict[str | None, dict[str, str]] = {}
        for stage in stages:
            for key, text in (stage.params.sides() if stage.params is not None else {}).items():
                reference = self.reference(text, (*stage.path, key), names, inputs)
                if reference is not None:
                    found.setdefault(stage.name, {})[key] = reference
        return found

    def only_input(self, path: KeyPath, inputs: Mapping[Any, Any]) -> str | None:
        if len(inputs) > 1:
            known = " | ".join(map(str, inputs))
            self.note(path, "field required, since there are several inputs", f"from: {known}")
        return str(next(iter(inputs))) if len(inputs) == 1 else None

    def reference(
        self, reference: Any, path: KeyPath, stages: Mapping[str, _Stage], inputs: Mapping[Any, Any]
    ) -> str | None:
        """Check what a `from` names."""
        if not isinstance(reference, str):
            shown = self.source.shown(reference, path)
            self.note(path, f"expected an input, a stage or stage.port, got {shown}")
            return None
        base, dot, port = reference.partition(".")
        ports = stages[base].ports if base in stages else ()
        if base not in stages and base not in inputs:
            known = [*inputs, *_references(stages.values())]
            self.note(path, f"no input or stage is called '{base}'", nearest(reference, known))
            return None
        if ports is None or (port or "") in (ports or ("",)):
            return reference
        known = [_spelt(base, each) for each in ports]
        if not dot:
            self.note(path, f"stage '{base}' has several outputs", f"from: {' | '.join(known)}")
            return None
        self.note(path, f"'{base}' has no output '{port}'", nearest(reference, known) if ports else f"from: {base}")
        return None

    def order(
        self,
        stages: Sequence[_Stage],
        sources: Mapping[str | None, tuple[str, ...]],
        sides: Mapping[str | None, Mapping[str, str]],
        inputs: Mapping[Any, Any],
    ) -> list[_Stage]:
        """Stages in topological order, those of the file first where there is a choice."""
        names = {stage.name for stage in stages} - inputs.keys()
        reads = {
            name: [ref.partition(".")[0] for ref in (*sources.get(name, ()), *sides.get(name, {}).values())]
            for name in names
        }
        waiting, done, order = list(stages), set[str | None](), list[_Stage]()
        while waiting:
            ready = next((s for s in waiting if not (names - done).intersection(reads.get(s.name, ()))), None)
            if ready is None:
                break
            waiting.remove(ready)
            done.add(ready.name)
            order.append(ready)
        self.cycles(waiting, reads)
        return order

    def cycles(self, waiting: Sequence[_Stage], reads: Mapping[str | None, Sequence[str]]) -> None:
        named: set[str | None] = set()
        left = {stage.name for stage in waiting}
        for stage in waiting:
            chain: list[str | None] = [stage.name]
            # Each of those left waits for another of them, so going back along the first such one ends in a circle.
            while (follower := next((r for r in reads.get(chain[-1], ()) if r in left), None)) not in (None, *chain):
                chain.append(follower)
            if follower == stage.name and stage.name not in named:
                named.update(chain)
                circle = " -> ".join(str(name) for name in reversed([*chain, stage.name]))
                self.note(
                    (*stage.path, "from"),
                    f"the stages form a cycle: {circle}",
                    "one of them has to read an input",
                )

    # --- outputs

    def outputs(self, data: Mapping[Any, Any], stages: Sequence[_Stage]) -> dict[str, OutputSpec]:
        single, several, feed = (data.get(key) for key in (OUTPUT, "outputs", "feed"))
        if single is not None and several is not None:
            self.note(("outputs",), "expected either `output` or `outputs`, got both", "keep `outputs`")
        if single is None and several is None:
            hint = "where the result goes, e.g. output: {path: build/digits}"
            self.note((OUTPUT,), "field required", hint)
        if several is not None and feed is not None:
            self.note(("feed",), "belongs into one of `outputs`", "outputs: {NAME: {path: ..., feed: ...}}")
        found: dict[str, OutputSpec] = {}
        if single is not None:
            self.output(OUTPUT, single, (OUTPUT,), data, stages, found, feed=feed, feed_path=("feed",))
        elif feed is not None and several is None:
            self.feed(feed, ("feed",))
        for name, options in _mapping(several).items():
            path = ("outputs", name)
            own_feed = options.get("feed") if isinstance(options, dict) else None
            if self.good_name(name, path, "the name of an output"):
                self.output(name, options, path, data, stages, found, feed=own_feed, feed_path=(*path, "feed"))
        return found

    def feed(self, raw: Any, path: KeyPath) -> FeedSpec | None:
        return None if raw is None else self.part(FeedSpec, raw, path)

    def output(
        self,
        name: str,
        raw: Any,
        path: KeyPath,
        data: Mapping[Any, Any],
        stages: Sequence[_Stage],
        found: dict[str, OutputSpec],
        *,
        feed: Any,
        feed_path: KeyPath,
    ) -> None:
        spec = self.feed(feed, feed_path)
        source = self.output_source(raw, path, data, stages)
        known = ("from", "feed") if feed_path[:-1] == path else ("from",)
        hidden = ("name", "source", "feed")
        given = {"name": name, "source": source or "", "feed": spec}
        output = self.part(OutputSpec, raw, path, known=known, hidden=hidden, given=given)
        if output is not None:
            found[name] = output

    def output_source(self, raw: Any, path: KeyPath, data: Mapping[Any, Any], stages: Sequence[_Stage]) -> str | None:
        inputs = _mapping(data.get("inputs"))
        names = {stage.name: stage for stage in stages if stage.name is not None}
        here = (*path, "from")
        if isinstance(raw, dict) and "from" in raw:
            return self.reference(raw["from"], here, names, inputs)
        if not stages:
            return self.only_input(here, inputs)
        last = stages[-1].name
        return None if last is None else self.reference(last, here, names, inputs)

    def gate_outputs(self, gates: Iterable[Gate | None], outputs: Mapping[str, OutputSpec]) -> None:
        names = [OUTPUT] if self.single else list(_mapping(self.source.data.get("outputs")))
        for i, gate in enumerate(gates):
            if gate is not None and gate.output is not None and gate.output not in names:
                self.note(
                    ("expect", i, "output"),
                    f"no output is called '{gate.output}'",
                    nearest(gate.output, names),
                )

    # --- paths

    def absolute(self, path: str) -> str:
        if path.startswith("file://"):
            path = path.removeprefix("file://")
        if "://" in path:
            return path
        return os.path.normpath(os.path.join(self.root, os.path.expanduser(path)))

    def resolved(self, spec: InputSpec) -> InputSpec:
        path = spec.path
        new = self.absolute(path) if isinstance(path, str) else [self.absolute(one) for one in path]
        return spec.model_copy(update={"path": new})

    def paths(self, inputs: Mapping[str, InputSpec], outputs: Mapping[str, OutputSpec]) -> None:
        """Refuse outputs that would overwrite an input or each other."""
        taken: dict[tuple[str, ...], str] = {}
        for name, output in outputs.items():
            path = (OUTPUT, "path") if self.single else ("outputs", name, "path")
            parts = _parts(self.absolute(output.path))
            if parts in taken:
                self.note(
                    path,
                    f"output '{taken[parts]}' has the same path",
                    "give each output a directory of its own",
                )
            taken.setdefault(parts, name)
            for input_name, spec in inputs.items():
                if any(_overlap(parts, _parts(self.absolute(one))) for one in spec.paths):
                    message = f"the output and the input '{input_name}' lie in each other"
                    self.note(path, message, "write to a directory that holds no input")

    # --- SQL

    def sql(self, inputs: Mapping[str, InputSpec], stages: Sequence[_Stage]) -> None:
        texts = [found for name, spec in inputs.items() for found in input_expressions(name, spec)]
        texts += [found for stage in stages for found in stage_expressions(stage.index, stage.params)]
        for path, message in expression_faults(texts):
            self.note(path, message)


def _mapping(value: Any) -> Mapping[Any, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _method_hint(use: Any) -> str:
    if use in FEEDS if isinstance(use, str) else False:
        return f"'{use}' is an option of `feed`"
    return nearest(str(use), sorted({*STAGES, *installed()}))


def _references(stages: Iterable[_Stage]) -> list[str]:
    named = [(stage.name, stage.ports or ("",)) for stage in stages if stage.name]
    return [_spelt(name, port) for name, ports in named for port in ports]


def _spelt(name: str, port: str) -> str:
    """Reference to an output of a stage."""
    return f"{name}.{port}" if port else name


def _parts(path: str) -> tuple[str, ...]:
    """Parts of a path or URL, for comparison."""
    scheme, url, rest = path.partition("://")
    if not url:
        scheme, rest = "file", os.path.realpath(path)
    return (scheme, *(part for part in rest.replace(os.sep, "/").split("/") if part))


def _overlap(output: tuple[str, ...], pattern: tuple[str, ...]) -> bool:
    """Whether a directory is, holds or lies in what a path (perhaps with wildcards) names."""
    for part, wanted in zip(output, pattern, strict=False):
        if wanted == "**":
            return True
        if part != wanted and not fnmatchcase(part, wanted):
            return False
    return True
