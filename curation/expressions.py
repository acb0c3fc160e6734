"""Row-wise SQL expressions on Arrow tables; Polars computes, and sees only the columns that are named."""

from __future__ import annotations

import difflib
import itertools
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from curation.errors import CurationError

if TYPE_CHECKING:
    from typing import TypeAlias

    Node: TypeAlias = Any  # a node of Polars' JSON: a name, or a mapping of one name to its parts

_ROW_WISE = "only row-wise expressions are allowed, since rows are processed in chunks"
_MAX_CHARS = 20_000
_MAX_PIECE_BYTES = 2**31 - 2**20  # plain Arrow strings have 32-bit offsets


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What a tree may hold, with the spellings of Polars 1.30 to 2.x. Anything else is refused.
_OPERATORS = _names(
    """
    Eq EqValidity NotEq NotEqValidity Lt LtEq Gt GtEq Plus Minus Multiply Divide TrueDivide RustDivide
    FloorDivide Modulus And Or Xor LogicalAnd LogicalOr
    """
)
_FUNCTIONS = _names(
    """
    Abs Negate Not Coalesce MaxHorizontal MinHorizontal FillNull FillNullWithLiteral Log Log1p Log2
    Log10 Exp Sign Round RoundSF Ceil Floor Atan2 Clip
    """
)
_FAMILIES: dict[str, frozenset[str]] = {
    "Boolean": _names(
        """
        Not IsNull IsNotNull IsIn IsNan IsNotNan IsFinite IsInfinite IsBetween AllHorizontal
        AnyHorizontal
        """
    ),
    "Pow": _names("Sqrt Cbrt Generic"),
    "Trigonometry": _names(
        """
        Sin Cos Tan Cot ArcSin ArcCos ArcTan Sinh Cosh Tanh ArcSinh ArcCosh ArcTanh Degrees Radians
        """
    ),
    "Bitwise": _names("CountOnes CountZeros And Or Xor Not"),
    "Sql": _names("Binary Round ToFloat IsIn"),
    "StringExpr": _names(
        """
        Contains StartsWith EndsWith Uppercase Lowercase Titlecase LenChars LenBytes Slice Head Tail
        Replace Find Reverse StripChars StripCharsStart StripCharsEnd StripPrefix StripSuffix
        ConcatHorizontal Split SplitExact SplitN Normalize PadStart PadEnd ZFill Strptime Extract
        CountMatches
        """
    ),
    "BinaryExpr": _names("Contains StartsWith EndsWith Size"),
    "ListExpr": _names("Length Contains Get Sum Mean Max Min Join Reverse"),
    "ArrayExpr": _names("Length Contains Get Sum Mean Max Min Join Reverse"),
    "StructExpr": frozenset(["FieldByName"]),
    "TemporalExpr": _names(
        """
        Millennium Century Year IsoYear Quarter Month Week WeekDay Day OrdinalDay Hour Minute Second
        Millisecond Microsecond Nanosecond TimeStamp Date Time Datetime OffsetBy ToString BaseUtcOffset
        DSTOffset TotalDays TotalHours TotalMinutes TotalSeconds TotalMilliseconds TotalMicroseconds
        TotalNanoseconds DaysInMonth IsLeapYear Truncate
        """
    ),
}
_WHY = {
    "Agg": "combines several rows",
    "Over": "looks at other rows",
    "Window": "looks at other rows",
    "Len": "counts rows",
    "SubPlan": "is a query of its own",
    "Explode": "makes several rows of one",
}
_SPOKEN = {
    "Agg": "an aggregate",
    "Function": "a function",
    "SubPlan": "a subquery",
    "Selector": "a pattern of columns",
    "Wildcard": "*",
    "Eval": "a computation over list elements",
}
FUNCTIONS = _names(
    """
    abs acos acosd array_contains array_get array_length array_lower array_mean array_sum
    array_to_string array_upper asin asind atan atan2 atan2d atand bit_and bit_count bit_length bit_or
    bit_xor cast cbrt ceil ceiling char_length character_length coalesce concat concat_ws cos cosd cot
    cotd date date_part datetime degrees div ends_with exp extract floor greatest if ifnull initcap
    least left length ln log log10 log1p log2 lower ltrim mod normalize nullif octet_length pi position
    pow power radians regexp_like replace reverse right round rtrim sign sin sind split_part sqrt
    starts_with strftime string_to_array strpos strptime substr substring tan tand time timestamp trim
    try_cast upper
    """
)
"""SQL functions that an expression may call; a few need a newer Polars than the oldest supported one."""

_BEFORE_PARENTHESIS = _names(
    """
    all and any between by case else in like ilike not on or over then when where
    """
)
_CLOCK = _names("current_date current_time current_timestamp localtime localtimestamp")
_CLOCK_CALLS = _CLOCK | _names("now today getdate clock_timestamp utc_timestamp utc_date utc_time")

_TOKEN = re.compile(
    r"""(?P<text>'(?:[^']|'')*') | (?P<quoted>"(?:[^"]|"")*"|`(?:[^`]|``)*`) | (?P<word>[^\W\d]\w*)
      | (?P<comment>--|/\*|\#) | (?P<dollar>\$) | (?P<space>\s+) | (?P<other>\d[\w.]*|.)""",
    re.VERBOSE | re.DOTALL,
)
_STUMBLED = re.compile(r"(?:unsupported function|expected an expression \(found) '(\w+)'")
_ODD_PREFIX = re.compile(r"\b(e|q|nq|r|br|rb)'", re.IGNORECASE)  # E'..', Q'[..]': other rules for what ends the text
_TRANSLATIONS = (
    (
        "to a string value",
        "a date or time cannot be compared with a string; write date '2024-01-31' or timestamp '...'",
    ),
    ("Date values in List(String)", "a date cannot be compared with a string; write date '2024-01-31'"),
    (
        "casting from string to date",
        "a string cannot be cast to a date; name the format: date(column, '%Y-%m-%d')",
    ),
    (
        "casting from string to",
        "a string cannot be cast to a time; name the format: timestamp(column, '%Y-%m-%d %H:%M:%S')",
    ),
)


class ExpressionError(CurationError):
    """A SQL expression that cannot be parsed, is not row-wise, or does not fit the columns."""

    exit_code = 2


@dataclass(frozen=True)
class RowExpression:
    """One row-wise SQL expression: the value of a row depends on that row alone.

    Attributes
    ----------
    text
        The SQL as written.
    columns
        Columns that it names, in order of appearance.
    """

    text: str
    columns: tuple[str, ...]
    _expression: pl.Expr = field(repr=False, compare=False)

    @classmethod
    @lru_cache(maxsize=256)
    def parse(cls, text: str) -> RowExpression:
        """Parse SQL and refuse whatever is not row-wise.

        Raises
        ------
        ExpressionError
            If the text is no SQL expression, or holds an aggregate, a window, a subquery, the clock, or any
            function that is not known to be row-wise.
        """
        _refuse_words(text)
        try:
            expression = pl.sql_expr(text)
            tree = _tree(expression)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, RecursionError) as error:
            raise ExpressionError(_one_line(error) + _meant(str(error), text)) from None
        columns: dict[str, None] = {}
        for node in _walk(tree, text):
            if isinstance(node, dict) and "Column" in node:
                columns[_plain_name(node["Column"])] = None
        return cls(text, tuple(columns), expression)

    def __reduce__(self) -> tuple[Any, ...]:
        return (RowExpression.parse, (self.text,))

    def check(self, schema: pa.Schema) -> pa.DataType:
        """Type of the result on a table of this schema, found on an empty table.

        Raises
        ------
        ExpressionError
            If a column is missing or of a type that expressions cannot read, or if the types do not fit.
        """
        missing = [name for name in self.columns if name not in schema.names]
        if missing:
            near = difflib.get_close_matches(missing[0], schema.names, 1)
            help_ = f"did you mean '{near[0]}'?" if near else f"columns: {', '.join(schema.names) or 'none'}"
            raise ExpressionError(f"no column '{missing[0]}'; {help_}")
        for name in self.columns:
            if len(schema.get_all_field_indices(name)) > 1:
                raise ExpressionError(f"two columns are named '{name}'")
            if not _readable(_storage_type(schema.field(name).type)):
                raise ExpressionError(
                    f"column '{name}' has type {schema.field(name).type}, which expressions cannot read"
                )
        empty = pa.schema([schema.field(name) for name in self.columns]).empty_table()
        return self.evaluate(empty).type

    def evaluate(self, table: pa.Table) -> pa.Array | pa.ChunkedArray:
        """Value of the expression for every row of ``table``, in its order.

        Returns
        -------
        (n_rows,)
            Of a plain Arrow type: ``string``, ``binary`` and ``list``, never their large or view forms.

        Raises
        ------
        ExpressionError
            If a value cannot be computed, such as a cast of ``'abc'`` to an integer.
        """
        if not self.columns and not len(table):
            return self.evaluate(_ONE_ROW)[:0]
        data = pa.table([_polars_ready(table[name]) for name in self.columns], names=list(self.columns))
        try:
            # Without columns the frame still needs a height, so that a constant is repeated for every row.
            frame = pl.DataFrame(data if self.columns else {"": pl.repeat(0, len(table), eager=True)})
            result = frame.with_columns(self._expression.alias(_RESULT)).select(_RESULT).to_arrow()
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException) as error:
            raise ExpressionError(_one_line(error)) from None
        return _plain(result.column(0))

    def predicate(self, table: pa.Table) -> pa.BooleanArray:
        """Value of a condition for every row of ``table``: true, false or null.

        Raises
        ------
        ExpressionError
            As `evaluate`, and if the expression is no condition.
        """
        result = self.evaluate(table)
        if pa.types.is_null(result.type):
            result = result.cast(pa.bool_())
        if not pa.types.is_boolean(result.type):
            raise ExpressionError(f"expected a condition (true or false), got a value of type {result.type}")
        combined: pa.BooleanArray = result.combine_chunks() if isinstance(result, pa.ChunkedArray) else result
        return combined

    def check_predicate(self, schema: pa.Schema) -> None:
        """Check like `check`, and that the result is true or false.

        Raises
        ------
        ExpressionError
            As `check`, and if the expression is no condition.
        """
        found = self.check(schema)
        if not (pa.types.is_boolean(found) or pa.types.is_null(found)):
            raise ExpressionError(f"expected a condition (true or false), got a value of type {found}")


_RESULT = "result"
_ONE_ROW = pa.table({"": [0]})


def _refuse_words(text: str) -> None:
    """Refuse what Polars' parser would hide from the tree: the clock, subqueries, comments, odd quoting."""
    if len(text) > _MAX_CHARS:
        raise ExpressionError(f"expected at most {_MAX_CHARS} characters, got {len(text)}")
    tokens = [(m.lastgroup or "", m.group()) for m in _TOKEN.finditer(text) if m.lastgroup != "space"]
    tokens.append(("end", ""))
    for (kind, word), (_, after) in itertools.pairwise(tokens):
        if kind == "comment":
            raise ExpressionError("comments are not allowed in SQL; write them in the recipe")
        if kind == "other" and word == ";":
            raise ExpressionError("unexpected ;; one expression is expected")
        if kind == "dollar" or (kind == "other" and word in "'\"`"):
            raise ExpressionError(f"unexpected {word}; text stands in 'single quotes', a column in \"double quotes\"")
        name = word.strip('"`').lower()
        if (kind == "word" and name in _CLOCK) or (after == "(" and name in _CLOCK_CALLS):
            raise ExpressionError(f"{name} reads the clock, so two builds would differ; write the date itself")
        if kind == "word" and name == "select":
            raise ExpressionError(f"a subquery is not allowed; {_ROW_WISE}")
    odd = _ODD_PREFIX.search(_TOKEN.sub(lambda m: m.group() if m.lastgroup == "word" else m.group()[0], text))
    if odd:
        raise ExpressionError(f"unexpected {odd.group(1)}'...'; text stands in plain 'single quotes'")


def _tree(expression: pl.Expr) -> Node:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the format is not stable, hence the allow-list
        return json.loads(expression.meta.serialize(format="json"))


def _walk(tree: Node, text: str) -> Iterator[Node]:
    """Every node of a parsed expression; a node outside the allow-list is refused."""
    stack = [tree]
    while stack:
        node = stack.pop()
        yield node
        kind, parts = next(iter(node.items())) if isinstance(node, dict) and len(node) == 1 else (str(node), None)
        children = _children(kind, parts)
        if children is None:
            raise ExpressionError(_refusal(kind, parts, text))
        stack.extend(reversed(children))


def _children(kind: str, parts: Node) -> list[Node] | None:
    """Nodes under an allowed node; None if it is not allowed."""
    if kind in ("Column", "Literal") and parts is not None:
        return []
    if kind == "BinaryExpr" and parts["op"] in _OPERATORS:
        return [parts["left"], parts["right"]]
    if kind == "Cast":
        return [parts["expr"]]
    if kind == "Ternary":
        return [parts["predicate"], parts["truthy"], parts["falsy"]]
    if kind == "Function" and _allowed(parts["function"], parts["input"]):
        return list(parts["input"])
    if kind == "Alias":
        inner, name = parts
        if isinstance(inner, dict) and "Literal" in inner:  # [1, 2, 3] is parsed to a literal with a name
            return [inner]
        raise ExpressionError(f"unexpected '{name}' after the expression")
    return None


def _allowed(function: Node, inputs: list[Node]) -> bool:
    family, parts = next(iter(function.items())) if isinstance(function, dict) else (function, None)
    if family not in _FAMILIES:
        return family in _FUNCTIONS
    member, options = next(iter(parts.items())) if isinstance(parts, dict) else (parts, None)
    constant = isinstance(inputs[0], dict) and "Literal" in inputs[0]
    if member == "Strptime" and not constant and not (options or [{}])[-1].get("format"):
        raise ExpressionError("the format of a date would be guessed; name it: date(column, '%Y-%m-%d')")
    if member == "FieldByName":
        _plain_name(str(options))
    return member in _FAMILIES[family]


def _refusal(kind: str, parts: Node, text: str) -> str:
    """Name what was refused as the author wrote it, and say why."""
    words = [(m.lastgroup, m.group().lower()) for m in _TOKEN.finditer(text) if m.lastgroup != "space"]
    calls = [word for (group, word), (_, after) in itertools.pairwise(words) if group == "word" and after == "("]
    unknown = [word for word in calls if word not in FUNCTIONS and word not in _BEFORE_PARENTHESIS]
    if unknown:
        spoken = f"{unknown[0]}()"
    elif kind == "BinaryExpr":
        spoken = str(parts["op"])
    else:
        spoken = _SPOKEN.get(kind, kind)
    return f"{spoken} {_WHY.get(kind, 'is not known to be row-wise')}; {_ROW_WISE}"


def _plain_name(name: str) -> str:
    if name == "*" or (name.startswith("^") and name.endswith("$")):
        raise ExpressionError(f"a pattern of columns is not allowed, got '{name}'; name one column")
    return name


def _meant(message: str, text: str) -> str:
    """What the author may have meant by the word that the parser stumbles over."""
    found = _STUMBLED.match(message)
    if not found:
        return ""
    word = found.group(1)
    if not re.search(rf"\b{re.escape(word)}\s*\(", text, re.IGNORECASE):
        return f'; a column of that name stands in double quotes: "{word}"'
    near = difflib.get_close_matches(word.lower(), sorted(FUNCTIONS), 1, cutoff=0.75)
    return f"; did you mean '{near[0]}'?" if near else ""


def _one_line(error: BaseException) -> str:
    text = str(error)
    for needle, message in _TRANSLATIONS:
        if needle in text:
            return message
    if isinstance(error, RecursionError) or "recursion limit" in text:
        return "too deeply nested"
    if "unable to parse" in text or "sql parser error" in text:
        return "not a SQL expression"
    if isinstance(error, pl.exceptions.StructFieldNotFoundError):
        return f"no field '{text.splitlines()[0]}' in the struct"
    line = next((part.strip() for part in text.splitlines() if part.strip()), type(error).__name__)
    return line if len(line) <= 200 else f"{line[:197]}..."


def _storage_type(found: pa.DataType) -> pa.DataType:
    """Type that is handed to Polars: dictionaries, run ends and extension types are only encodings."""
    while True:
        if isinstance(found, pa.BaseExtensionType):
            found = found.storage_type
        elif pa.types.is_dictionary(found) or pa.types.is_run_end_encoded(found):
            found = found.value_type
        elif pa.types.is_float16(found):
            return pa.float32()
        else:
            return found


def _readable(found: pa.DataType) -> bool:
    if pa.types.is_nested(found):
        if pa.types.is_map(found) or pa.types.is_union(found) or found.num_fields == 0:
            return False
        if pa.types.is_struct(found):
            return all(_readable(found.field(i).type) for i in range(found.num_fields))
        lists = pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found)
        return lists and _readable(found.value_type)
    unreadable = pa.types.is_decimal256(found) or pa.types.is_interval(found) or pa.types.is_run_end_encoded(found)
    return not unreadable and not isinstance(found, pa.BaseExtensionType)


def _polars_ready(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_nested(column.type) and any(chunk.offset for chunk in column.chunks):
        compact = [pa.concat_arrays([chunk]) for chunk in column.chunks]  # old Polars misreads slices of structs
        column = pa.chunked_array(compact, column.type)
    while column.type != (wanted := _storage_type(column.type)):
        if isinstance(column.type, pa.BaseExtensionType):
            column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
        elif pa.types.is_run_end_encoded(column.type):
            decoded = [pc.run_end_decode(chunk) for chunk in column.chunks]
            column = pa.chunked_array(decoded, column.type.value_type)
        else:
            column = column.cast(column.type.value_type if pa.types.is_dictionary(column.type) else wanted)
    return column


def _plain_type(found: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(found) or pa.types.is_string_view(found):
        return pa.string()
    if pa.types.is_large_binary(found) or pa.types.is_binary_view(found):
        return pa.binary()
    if pa.types.is_dictionary(found):
        return _plain_type(found.value_type)
    if pa.types.is_list(found) or pa.types.is_large_list(found):
        return pa.list_(_plain_type(found.value_type))
    if pa.types.is_fixed_size_list(found):
        return pa.list_(_plain_type(found.value_type), found.list_size)
    if pa.types.is_struct(found):
        fields = [found.field(i) for i in range(found.num_fields)]
        return pa.struct([pa.field(f.name, _plain_type(f.type)) for f in fields])
    return found


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    wanted = _plain_type(column.type)
    if wanted == column.type:
        return column
    pieces = [piece.cast(wanted) for chunk in column.chunks for piece in _pieces(chunk)]
    return pa.chunked_array(pieces, wanted)


def _pieces(chunk: pa.Array) -> Iterator[pa.Array]:
    """Halves of a chunk until each is small enough for 32-bit offsets."""
    if chunk.nbytes <= _MAX_PIECE_BYTES or len(chunk) < 2:
        yield chunk
        return
    yield from _pieces(chunk.slice(0, len(chunk) // 2))
    yield from _pieces(chunk.slice(len(chunk) // 2))
