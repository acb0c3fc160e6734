"""The typed recipe: what `load_recipe` returns and every later layer reads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializeAsAny,
    field_validator,
    model_validator,
)

from curation.errors import Problem
from curation.methods.base import Params
from curation.methods.cooldown import cooldown_fault
from curation.plugins import Plugin
from curation.recipe.source import KeyPath, Source
from curation.urls import redacted as redacted_url

OUTPUT = "output"
"""Name of the only output of a recipe that has `output` and not `outputs`."""

Group: TypeAlias = str | int | bool
Order: TypeAlias = Literal["shuffled", "input"]


TYPES = (
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"),
    *("bool", "string", "binary", "date32", "timestamp"),
)
"""Types that a column of a text file can be declared to have; a timestamp is one in microseconds."""


def _infinite(value: Any) -> Any:
    return math.inf if value == "inf" else value  # JSON, and so a manifest, has no infinity


Number: TypeAlias = Annotated[float, BeforeValidator(_infinite)]
Temperature: TypeAlias = Annotated[float, Field(gt=0), BeforeValidator(_infinite)]


class _Spec(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class InputSpec(_Spec):
    """One entry of ``inputs``."""

    path: str | list[str] = Field(description="file, directory or glob, or a list of them")
    key: str | None = Field(default=None, description="column that identifies a row; default: file and position")
    columns: list[str] | None = Field(default=None, min_length=1, description="columns to read; default: all")
    where: str | None = Field(
        default=None, min_length=1, description="row-wise SQL condition; rows outside are not selected"
    )
    format: Literal["parquet", "arrow", "jsonl", "csv", "webdataset", "images", "lance"] | None = Field(
        default=None,
        description="parquet | arrow | jsonl | csv | webdataset | images | lance; default: by the suffix of each file",
    )
    types: dict[str, str] | None = Field(
        default=None, min_length=1, description="types of columns of jsonl and csv, e.g. {id: string, score: float64}"
    )
    delimiter: str | None = Field(
        default=None, min_length=1, max_length=1, description="of csv; default: a comma, a tab for .tsv"
    )
    nulls: list[str] | None = Field(default=None, description='texts of csv that mean NULL; default: [""]')
    on_bad_rows: Literal["error", "quarantine"] = Field(
        default="error", description="error stops the build, quarantine sets unreadable rows aside"
    )
    max_bad: float = Field(
        default=0.001,
        ge=0,
        le=1,
        description="with quarantine: largest share of the rows read that may be bad",
    )

    @field_validator("path")
    @classmethod
    def _path_is_not_empty(cls, path: str | list[str]) -> str | list[str]:
        if not path or (isinstance(path, list) and not all(path)):
            raise ValueError("expected a path, got an empty one")
        return path

    @field_validator("columns")
    @classmethod
    def _columns_differ(cls, columns: list[str] | None) -> list[str] | None:
        if twice := sorted({name for name in columns or [] if (columns or []).count(name) > 1}):
            raise ValueError(f"column '{twice[0]}' is named twice")
        return columns

    @field_validator("types")
    @classmethod
    def _types_are_known(cls, types: dict[str, str] | None) -> dict[str, str] | None:
        for column, kind in (types or {}).items():
            if kind not in TYPES:
                raise ValueError(f"column '{column}': expected one of {', '.join(TYPES)}, got '{kind}'")
        return types

    @property
    def paths(self) -> tuple[str, ...]:
        """Paths, one or more."""
        return (self.path,) if isinstance(self.path, str) else tuple(self.path)


class StageSpec(_Spec):
    """One entry of ``stages``, with its source resolved."""

    name: str = Field(description="name of the stage; default: the name of the method")
    use: str = Field(description="name of the method, as `curate methods` lists it")
    sources: tuple[str, ...] = Field(description="what flows in: inputs, stages or stage.port, mostly one")
    sides: dict[str, str] = Field(default={}, description="what it looks things up in, by option")
    params: SerializeAsAny[Params] = Field(description="options of the method")
    index: int = Field(description="place in the recipe, counted from 0")
    plugin: Plugin | None = Field(default=None, description="the code of a stage that is not ours")


class Gate(_Spec):
    """One entry of ``expect``: exactly one limit that the result has to keep."""

    min_rows: int | None = Field(default=None, ge=0, description="fewest rows, of each value of `by` if that is given")
    max_rows: int | None = Field(default=None, ge=0, description="most rows, of each value of `by` if that is given")
    min_share: float | None = Field(default=None, ge=0, le=1, description="smallest share of each value of `by`")
    max_share: float | None = Field(default=None, ge=0, le=1, description="largest share of each value of `by`")
    max_null: float | None = Field(default=None, ge=0, le=1, description="largest share of nulls in each of `columns`")
    by: str | None = Field(default=None, description="column whose values are counted one by one")
    values: list[Group] | None = Field(
        default=None,
        min_length=1,
        description="values of `by` that must be there; without it a value that lost all its rows is not missed",
    )
    columns: list[str] | None = Field(default=None, min_length=1, description="columns that `max_null` looks at")
    output: str | None = Field(default=None, description="output that is checked; default: every output")

    @model_validator(mode="after")
    def _one_limit_with_its_columns(self) -> Gate:
        given = [name for name in _LIMITS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected exactly one of {', '.join(_LIMITS)}, got {', '.join(given) or 'none'}")
        kind = given[0]
        if self.values is not None and self.by is None:
            raise ValueError("values needs `by`, the column whose values they are")
        if kind in ("min_share", "max_share") and self.by is None:
            raise ValueError(f"{kind} needs `by`, the column whose values have shares")
        if kind == "max_null" and self.columns is None:
            raise ValueError("max_null needs `columns`, the columns whose nulls count")
        if kind == "max_null" and self.by is not None:
            raise ValueError("max_null takes `columns`, not `by`")
        if kind != "max_null" and self.columns is not None:
            raise ValueError(f"{kind} takes `by`, not `columns`")
        return self

    @property
    def kind(self) -> str:
        """Name of the limit that is given."""
        return next(name for name in _LIMITS if getattr(self, name) is not None)

    @property
    def limit(self) -> float:
        """Value of the limit that is given."""
        value: float = getattr(self, self.kind)
        return value


_LIMITS = ("min_rows", "max_rows", "min_share", "max_share", "max_null")


class CooldownSpec(_Spec):
    """Options of ``mixture: {cooldown: ...}``."""

    start: Temperature = Field(default=5.0, description="temperature at the start; the paper uses 5")
    end: Temperature = Field(default=1.0, description="temperature at the end; 1 is the shares of the data")
    at: float = Field(default=0.5, gt=0, description="place in the training, in `unit`, from which on `end` holds")
    shape: Literal["step", "linear", "cosine", "exponential"] = Field(
        default="step", description="how it cools: step (as in the paper) | linear | cosine | exponential"
    )
    steps: list[Annotated[list[Number], Field(min_length=2, max_length=2)]] | None = Field(
        default=None,
        min_length=1,
        description="instead of the others: [place, temperature] of every switch, the first at 0",
    )
    unit: Literal["share", "steps", "rows"] = Field(
        default="share", description="of `at` and of the places of `steps`: share of the training | steps | rows"
    )

    @model_validator(mode="after")
    def _places_and_temperatures_fit(self) -> CooldownSpec:
        if self.steps is not None and (given := sorted(self.model_fields_set - {"steps", "unit"})):
            raise ValueError(f"expected steps alone, got {', '.join(given)} as well; leave them out")
        if fault := cooldown_fault(self.start, self.end, self.at, self.shape, self.steps, self.unit):
            raise ValueError(fault)
        return self


class Mixture(_Spec):
    """Shares of the groups: exactly one of the keys."""

    proportional: Literal[True] | None = Field(default=None, description="true: the shares of the data")
    temperature: Temperature | None = Field(
        default=None,
        description="1 keeps the shares of the data, inf makes them equal, below 1 sharpens them",
    )
    alpha: float | None = Field(
        default=None,
        ge=0,
        allow_inf_nan=False,
        description="1 / temperature, as some papers have it: 1 keeps the shares of the data, 0 makes them equal",
    )
    shares: dict[Group, float] | None = Field(
        default=None, min_length=1, description="share by group, each >= 0; they sum to 1"
    )
    rows: dict[Group, Annotated[int, Field(ge=1)]] | None = Field(
        default=None,
        min_length=1,
        description="rows by group, each >= 1; their proportions are the shares, an epoch stays as long as it is",
    )
    cooldown: CooldownSpec | None = Field(default=None, description="a temperature that falls during training")

    @field_validator("shares")
    @classmethod
    def _shares_sum_to_one(cls, shares: dict[Group, float] | None) -> dict[Group, float] | None:
        if shares is None:
            return None
        for group, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"expected shares >= 0 and <= 1, got {group}: {share}")
        if abs(math.fsum(shares.values()) - 1) > 1e-9:
            raise ValueError(f"expected shares that sum to 1, got a sum of {math.fsum(shares.values()):g}")
        return shares

    @model_validator(mode="after")
    def _one_kind(self) -> Mixture:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            kinds = ", ".join(type(self).model_fields)
            raise ValueError(f"expected exactly one of {kinds}, got {', '.join(given) or 'none'}")
        return self

    @property
    def kind(self) -> str:
        """Name of the key that is given."""
        return next(name for name in type(self).model_fields if getattr(self, name) is not None)


class SubsetSpec(_Spec):
    """Options of ``feed: {subset: ...}``."""

    use: Literal["rs2"] = Field(description="rs2: a fresh random subset every epoch")
    fraction: float = Field(gt=0, le=1, description="share of the rows that an epoch visits")
    replacement: bool = Field(
        default=False,
        description="false: rows return only after all were seen; true: epochs draw independently",
    )
    tail: Literal["carry", "short", "drop"] = Field(
        default="carry",
        description="rows left at the end of a cycle: carry into the next epoch | short epoch | drop",
    )
    stratify: bool | str | None = Field(
        default=None,
        description="true, or the column of `groups`: every epoch has the same number of rows of each group",
    )


class FeedSpec(_Spec):
    """How a trainer visits an output."""

    batch_size: int = Field(ge=1, description="rows of a global batch, over all ranks")
    epochs: int = Field(ge=1, description="number of epochs that the plan covers")
    groups: str | None = Field(default=None, description="column whose values are the groups of `mixture`")
    mixture: Mixture | None = Field(default=None, description="shares of the groups; default: those of the data")
    subset: SubsetSpec | None = Field(default=None, description="part of the rows that an epoch visits; default: all")
    drop_last: bool = Field(default=False, description="drop the last batch of an epoch if it is not full")
    size: str | None = Field(
        default=None, description="column whose sum is the size of a group, e.g. tokens: the unit of the shares"
    )
    max_repeats: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="how often the rows of a group may be drawn over the training, at most",
    )
    scalarize: bool = Field(
        default=False, description="draw in proportion to the rows, and weigh them so that the shares hold"
    )
    sample_by: str | None = Field(
        default=None, description="column of weights >= 0 in proportion to which rows are drawn"
    )
    batches: Literal["mixed", "unmixed"] = Field(
        default="mixed", description="mixed | unmixed: every batch holds rows of one group"
    )
    group_batch_size: dict[Group, Annotated[int, Field(ge=1)]] | None = Field(
        default=None, min_length=1, description="with unmixed: rows of a batch of some groups, not `batch_size`"
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        lt=2**64,
        description="seed of the order of visits; default: the seed of the recipe",
    )

    @model_validator(mode="after")
    def _mixture_has_groups(self) -> FeedSpec:
        if self.mixture is not None and self.mixture.kind != "proportional" and self.groups is None:
            raise ValueError(f"mixture {self.mixture.kind} needs `groups`, the column whose values are the groups")
        return self


class OutputSpec(_Spec):
    """The output, or one entry of ``outputs``, with its source resolved and its path absolute."""

    name: str = Field(description="name of the output")
    source: str = Field(description="what it holds: an input, a stage or stage.port")
    path: str = Field(min_length=1, description="directory of the result")
    format: Literal["arrow", "parquet"] = Field(default="arrow", description="format of the shards: arrow | parquet")
    shard_rows: int = Field(default=50_000, ge=1, description="rows of a shard")
    order: Order = Field(
        default="input", description="shuffled | input; default: shuffled if there is a feed, else input"
    )
    keep: int = Field(default=1, ge=0, description="generations that are kept besides the current one")
    compression: Literal["zstd", "snappy", "lz4", "none"] = Field(
        default="none",
        description="of parquet: zstd (default) | snappy | lz4 | none; arrow is never compressed",
    )
    feed: FeedSpec | None = Field(default=None, description="how a trainer visits the rows")

    @model_validator(mode="before")
    @classmethod
    def _defaults_that_depend(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        shuffled = data.get("feed") is not None
        zstd = data.get("format") == "parquet"
        return {
            "order": "shuffled" if shuffled else "input",
            "compression": "zstd" if zstd else "none",
        } | data

    @model_validator(mode="after")
    def _options_fit(self) -> OutputSpec:
        if self.format == "arrow" and self.compression != "none":
            raise ValueError(f"arrow shards are memory-mapped, got compression {self.compression}; use format parquet")
        if self.feed is not None and self.feed.groups is not None and self.order == "input":
            raise ValueError("a feed with groups stores rows group by group, got order input; use shuffled")
        return self


class Recipe(_Spec):
    """A whole recipe, checked as far as that needs no data.

    ``stages`` are in topological order and refer to each other by name; ``file`` is the recipe as it was
    named and ``root`` its absolute directory.
    """

    recipe: Literal[1] = Field(description="version of the format: 1")
    name: str = Field(description="name of the data set")
    seed: int = Field(ge=0, lt=2**64, description="seed of all randomness, 0 <= seed < 2^64")
    inputs: dict[str, InputSpec] = Field(description="tables to read, by name")
    stages: tuple[StageSpec, ...] = Field(default=(), description="methods, in the order of the flow")
    expect: tuple[Gate, ...] = Field(default=(), description="limits that the result has to keep")
    outputs: tuple[OutputSpec, ...] = Field(description="results to write")
    file: str = Field(default="recipe.yaml", description="the recipe, as it was named")
    root: str = Field(default=".", description="absolute directory of the recipe")

    _source: Source | None = PrivateAttr(default=None)

    def problem(self, path: KeyPath, message: str, hint: str = "") -> Problem:
        """Make a problem that names the line of a key of the recipe.

        Parameters
        ----------
        path
            Keys and indices as in the file, such as ``("stages", stage.index, "k")``; see also `output_path`.
        message
            What is wrong.
        hint
            How to mend it.
        """
        return (self._source or Source(self.file)).problem(path, message, hint)

    def output_path(self, name: str, *keys: str) -> KeyPath:
        """Key path of an option of an output, for `problem`."""
        data = self._source.data if self._source else {}
        if data.get(OUTPUT) is None:
            return ("outputs", name, *keys)
        return keys if keys[:1] == ("feed",) else (OUTPUT, *keys)

    def stage(self, name: str) -> StageSpec:
        """Stage of that name.

        Raises
        ------
        KeyError
            If there is none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise KeyError(name)

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """Plug-ins that the stages use, each once, by name."""
        found = {stage.use: stage.plugin for stage in self.stages if stage.plugin is not None}
        return tuple(found[use] for use in sorted(found))

    def canonical(self, *, redacted: bool = True) -> dict[str, Any]:
        """Return the effective recipe as plain data for JSON: defaults filled in, paths as they were written.

        Mappings with keys that are not text become lists of ``[key, value]``, infinity becomes ``"inf"``.

        Parameters
        ----------
        redacted
            Put ``${VAR}`` in the place of values that came from variables. False is for content keys alone:
            what it returns may hold secrets and is never written.
        """
        source = self._source if redacted else None

        def plain(data: Mapping[str, Any], path: KeyPath) -> dict[str, Any]:
            restored = source.restored(data, path) if source else data
            return {key: _plain(value) for key, value in restored.items()}

        outputs = {}
        for output in self.outputs:
            data = {"from": output.source} | _dump(output, "name", "source", "path", "feed")
            data["path"] = self._written(self.output_path(output.name, "path"), output.path)
            outputs[output.name] = plain(data, self.output_path(output.name))
            if output.feed is not None:
                outputs[output.name]["feed"] = plain(_dump(output.feed), self.output_path(output.name, "feed"))
        inputs = {}
        for name, spec in self.inputs.items():
            path = ("inputs", name)
            inputs[name] = plain({"path": self._written((*path, "path"), spec.path)} | _dump(spec, "path"), path)
        stages = []
        for stage in self.stages:
            flows = stage.sources[0] if len(stage.sources) == 1 else list(stage.sources)
            own = {"name": stage.name, "use": stage.use, "from": flows}
            stages.append(plain(own | _dump(stage.params), ("stages", stage.index)))
        expect = [plain(_dump(gate), ("expect", i)) for i, gate in enumerate(self.expect)]
        top = plain({"recipe": self.recipe, "name": self.name, "seed": self.seed}, ())
        return top | {"inputs": inputs, "stages": stages, "expect": expect, "outputs": outputs}

    def _written(self, path: KeyPath, value: Any) -> Any:
        """Path as it stands in the file, with variables filled in; of a URL, what may be secret is left out."""
        here = self._source.data if self._source else None
        for key in path:
            here = here.get(key) if isinstance(here, dict) else None
        found = value if here is None else here
        return [redacted_url(each) for each in found] if isinstance(found, list) else redacted_url(found)


def _dump(model: BaseModel, *without: str) -> dict[str, Any]:
    return model.model_dump(exclude=set(without), exclude_none=True)


def _plain(value: Any) -> Any:
    """Make a value plain data for JSON that keeps the types of keys."""
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _plain(item) for key, item in value.items()}
        return [[key, _plain(item)] for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes):
        return value.hex()
    return value
