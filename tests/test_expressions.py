import datetime as dt
import itertools
import pickle
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.expressions import FUNCTIONS, ExpressionError, RowExpression

NAN = float("nan")
DAY, TIME = dt.date(2020, 2, 29), dt.datetime(2021, 12, 31, 23, 59, 58, 123456)
TABLE = pa.table(
    {
        "i": pa.array([3, -7, None, 0, 12, 5, 8], pa.int64()),
        "n": pa.array([1, 2, 3, None, -128, 127, 7], pa.int8()),
        "f": pa.array([0.5, NAN, None, -1.25, 1e300, 0.1, 2.0], pa.float64()),
        "p": pa.array([0.5, 0.25, None, 1.0, 0.75, 0.1, 0.3], pa.float64()),
        "b": pa.array([True, False, None, True, True, False, True]),
        "s": pa.array(["abc", "", None, "  Äb,c ", "x,y,z", "ABC", "été"]),
        "t": pa.array(["b", "x", "y", None, ",", "", "é"]),
        "day": pa.array([DAY, None, dt.date(1969, 12, 31), DAY, DAY, DAY, dt.date(2000, 1, 1)]),
        "ts": pa.array([TIME, None, TIME, dt.datetime(1960, 1, 1), TIME, TIME, TIME], pa.timestamp("us")),
        "text": pa.array(["2020-01-31", None] + ["1999-12-01"] * 5),
        "clock": pa.array(["2020-01-31 10:11:12", None] + ["1999-12-01 00:00:00"] * 5),
        "list": pa.array([[1, 2], [], None, [None, 3], [4], [5, 6, 7], [8]], pa.list_(pa.int64())),
        "words": pa.array([["a", "b"], [], None, ["c"], ["d"], ["e"], [None]], pa.list_(pa.string())),
        "st": pa.array([{"a": 1, "b": "x"}, {"a": None, "b": "y"}, None] + [{"a": 2, "b": "z"}] * 4),
        "dec": pa.array([Decimal("1.10"), None] + [Decimal("-2.25")] * 5, pa.decimal128(9, 2)),
        "cat": pa.array(["u", "v", None, "u", "u", "w", "v"]).dictionary_encode(),
    }
)
ALLOWED = [
    "i > 1", "i <> 3", "i = 3 AND f < 1", "b OR i IS NULL", "NOT b", "i IS NOT NULL", "i BETWEEN 0 AND 5",
    "i NOT BETWEEN 0 AND 5", "i IN (0, 3, 5)", "i IN (3)", "i NOT IN (0, 3)", "s IN ('abc', 'x')",
    "i IN (1.5, 3.0)", "i IS NOT DISTINCT FROM 3", "i IS DISTINCT FROM n", "b IS TRUE", "b IS NOT FALSE",
    "i + n", "i - n", "i * 2", "i / 2", "i // 2", "i % 3", "f * p", "-i", "f / 0", "i % 0", "n + 200",
    "dec * 2", "dec > 1", "f = f", "f > 1", "f IN (0.5)", "s LIKE 'a%'", "s LIKE 'a_c'", "s NOT LIKE '%c'",
    "s ILIKE 'A%'", "s ~ '^a'", "s !~ '^a'", "s ~* '^A'", "s || t", "s || '-' || i", "s = 'abc'", "s < t",
    "s = 'it''s'", "CASE WHEN i > 1 THEN 'x' WHEN i > 0 THEN 'y' ELSE 'z' END", "CASE i WHEN 3 THEN 1 END",
    "CAST(i AS DOUBLE)", "CAST(f AS VARCHAR)", "TRY_CAST(s AS INT)", "i::smallint", "CAST(i AS BOOLEAN)",
    "CAST(ts AS DATE)", "day::timestamp", "COALESCE(i, n, 0)", "IFNULL(i, 1)", "NULLIF(i, 3)",
    "IF(b, i, n)", "GREATEST(i, n, 4)", "LEAST(i, n)", "day > date '2000-01-01'",
    "ts < timestamp '2000-01-01 00:00:00'", "day + INTERVAL '1 month'", "ts - ts", "EXTRACT(YEAR FROM day)",
    "EXTRACT(EPOCH FROM ts)", "EXTRACT(DOW FROM day)", "EXTRACT(MICROSECOND FROM ts)",
    "DATE_PART('week', day)", "DATE_PART('quarter', ts)", "STRFTIME(ts, '%Y-%m-%d %H')",
    "DATE(text, '%Y-%m-%d')", "STRPTIME(text, '%Y-%m-%d')", "TIMESTAMP(clock, '%Y-%m-%d %H:%M:%S')",
    "DATETIME(clock, '%Y-%m-%d %H:%M:%S')", "TIME('10:11:12', '%H:%M:%S')", "st.a", "st.b = 'x'", "list[1]",
    "list[-1]", "i = ANY(list)", "ARRAY_LENGTH(list)", "ARRAY_CONTAINS(list, 3)", "ARRAY_GET(list, 2)",
    "ARRAY_SUM(list)", "ARRAY_MEAN(list)", "ARRAY_UPPER(list)", "ARRAY_LOWER(list)",
    "ARRAY_TO_STRING(words, '-')", "ABS(i)", "CEIL(p)", "CEILING(p)", "FLOOR(f)", "ROUND(f, 1)", "ROUND(p)",
    "SIGN(f)", "SQRT(p)", "CBRT(p)", "EXP(p)", "LN(p)", "LOG(p, 2)", "LOG2(p)", "LOG10(p)", "LOG1P(p)",
    "POW(p, 2)", "POWER(f, 2)", "PI()", "MOD(i, 3)", "DIV(i, 3)", "SIN(p)", "COS(p)", "TAN(p)", "COT(p)",
    "ASIN(p)", "ACOS(p)", "ATAN(p)", "ATAN2(p, f)", "SIND(p)", "COSD(p)", "TAND(p)", "COTD(p)", "ASIND(p)",
    "ACOSD(p)", "ATAND(p)", "ATAN2D(p, f)", "DEGREES(p)", "RADIANS(p)", "BIT_AND(i, 3)", "BIT_OR(i, 3)",
    "BIT_XOR(i, 3)", "BIT_COUNT(i)", "i & 3", "i | 3", "UPPER(s)", "LOWER(s)", "INITCAP(s)", "LENGTH(s)",
    "CHAR_LENGTH(s)", "CHARACTER_LENGTH(s)", "OCTET_LENGTH(s)", "BIT_LENGTH(s)", "LEFT(s, 2)",
    "RIGHT(s, 2)", "SUBSTR(s, 2, 1)", "SUBSTRING(s, 2)", "TRIM(s)", "LTRIM(s)", "RTRIM(s)",
    "REPLACE(s, 'b', 'x')", "REVERSE(s)", "STARTS_WITH(s, 'a')", "ENDS_WITH(s, t)", "STRPOS(s, 'b')",
    "POSITION('b' IN s)", "CONCAT(s, t)", "CONCAT_WS('-', s, t)", "SPLIT_PART(s, ',', 2)",
    "STRING_TO_ARRAY(s, ',')", "REGEXP_LIKE(s, '^A', 'i')", "NORMALIZE(s)", "cat = 'u'", "cat < 'v'",
    "UPPER(cat)", "cat", "1", "'x'", "NULL", "TRUE", "i", "s", "st", "list", "dec", "ts", "words",
]  # fmt: skip
REFUSED = {
    "sum(i)": "sum() combines several rows",
    "avg(i) > i": "avg() combines several rows",
    "count(*)": "count() counts rows",
    "count(i)": "count() combines several rows",
    "min(i)": "min() combines several rows",
    "median(i)": "median() combines several rows",
    "stddev(i)": "stddev() combines several rows",
    "first(i)": "first() combines several rows",
    "last(i)": "last() combines several rows",
    "quantile_cont(f, 0.5)": "quantile_cont()",
    "count(DISTINCT i)": "count()",
    "array_agg(i)": "array_agg()",
    "sum(i) OVER (PARTITION BY b)": "sum()",
    "i > ALL(list)": "an aggregate combines several rows",
    "unnest(list)": "unnest() makes several rows of one",
    "array_unique(list)": "array_unique()",
    "i IN (SELECT 1)": "a subquery is not allowed",
    "(SELECT 1)": "a subquery is not allowed",
    "EXISTS (SELECT 1)": "a subquery is not allowed",
    "lenght(s) > 3": "unsupported function 'lenght'; did you mean 'length'?",
    "user = 'a'": "unsupported function 'user'; a column of that name stands in double quotes: \"user\"",
    "order > 3": 'stands in double quotes: "order"',
    "random()": "unsupported function 'random'",
    "uuid()": "unsupported function 'uuid'",
    "explode(list)": "unsupported function 'explode'",
    "now()": "now reads the clock",
    "ts > NOW ( )": "now reads the clock",
    '"now"()': "now reads the clock",
    "`now`()": "now reads the clock",
    "current_date": "current_date reads the clock",
    "day < CURRENT_DATE": "current_date reads the clock",
    "current_timestamp": "current_timestamp reads the clock",
    "current_time": "current_time reads the clock",
    "localtimestamp": "localtimestamp reads the clock",
    "today()": "today reads the clock",
    "columns('i')": "",
    '"^i.*$" > 1': "a pattern of columns",
    '"*"': "a",
    "date(text)": "the format of a date would be guessed",
    "text::json": "not known to be row-wise",
    "i b": "unexpected 'b' after the expression",
    "i AS b": "unexpected 'b' after the expression",
    "i > 1 -- c": "comments are not allowed",
    "i /* c */": "comments are not allowed",
    "$$a$$": "unexpected $",
    "E'a\\''": "unexpected",
    "s = 'a": "unexpected '",
    "i >": "not a SQL expression",
    "": "not a SQL expression",
    "*": "not a SQL expression",
    "i; i": "unexpected ;",
    " OR ".join(["i = 1"] * 3000): "expected at most 20000 characters",
    "(" * 3000 + "i" + ")" * 3000: "",
}


def pieces(table, cuts):
    bounds = [0, *sorted(cuts), len(table)]
    return [table.slice(a, b - a) for a, b in itertools.pairwise(bounds)]


def plain(values):
    return ["nan" if value != value else value for value in values.to_pylist()]


def parsed(sql):
    try:
        return RowExpression.parse(sql)
    except ExpressionError as error:
        lacking = "unsupported function" in str(error) or "Substring" in str(error)
        if lacking and tuple(map(int, pl.__version__.split(".")[:2])) < (2, 0):
            pytest.skip("this Polars lacks the function")
        raise


@pytest.mark.parametrize("sql", ALLOWED)
@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(0, len(TABLE)), max_size=4))
def test_expression__on_pieces_equals_the_whole(sql, cuts):
    expression = parsed(sql)
    whole = expression.evaluate(TABLE)
    parts = [expression.evaluate(piece) for piece in pieces(TABLE, cuts)]
    assert len(whole) == len(TABLE)
    assert {part.type for part in parts} == {whole.type} == {expression.check(TABLE.schema)}
    assert [value for part in parts for value in plain(part)] == plain(whole)


def test_allowed_list__tests_every_function():
    tested = " ".join(ALLOWED).lower()
    assert [name for name in sorted(FUNCTIONS) if f"{name}(" not in tested] == []


@pytest.mark.parametrize("sql", REFUSED)
def test_expression__that_is_not_row_wise_is_refused(sql):
    with pytest.raises(ExpressionError) as caught:
        RowExpression.parse(sql)
    assert REFUSED[sql] in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_refusal__says_what_and_why():
    with pytest.raises(ExpressionError) as caught:
        RowExpression.parse("i > avg(i)")
    assert str(caught.value) == (
        "avg() combines several rows; only row-wise expressions are allowed, since rows are processed in chunks"
    )


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("ii > 1", "no column 'ii'; did you mean 'i'?"),
        ("something > 1", "no column 'something'; columns: i, n, f, "),
        ("s + 1", "arithmetic on"),
        ("s = 1", "cannot compare string with numeric type"),
        ("upper(i)", "expected `String`, got `i64`"),
        ("day > '2020-01-01'", "a date or time cannot be compared with a string; write date '2024-01-31'"),
        ("st.c", "no field 'c' in the struct"),
        ("s ~ '('", "regex"),
    ],
)
def test_check__says_what_does_not_fit(sql, message):
    with pytest.raises(ExpressionError) as caught:
        RowExpression.parse(sql).check(TABLE.schema)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "found",
    [
        pa.decimal256(40, 2),
        pa.month_day_nano_interval(),
        pa.map_(pa.string(), pa.int8()),
        pa.list_(pa.month_day_nano_interval()),
        pa.struct([("a", pa.decimal256(40, 2))]),
        pa.list_view(pa.int8()),
        pa.dense_union([pa.field("a", pa.int8())]),
    ],
    ids=str,
)
def test_check__names_a_column_that_expressions_cannot_read(found):
    with pytest.raises(ExpressionError, match=r"column 'x' has type .*, which expressions cannot read"):
        RowExpression.parse("x IS NULL").check(pa.schema([("x", found)]))


@pytest.mark.parametrize(
    ("column", "sql", "expected"),
    [
        (pa.array([1.5, None], pa.float16()), "x > 1", [True, None]),
        (pa.array(["a", None]).dictionary_encode(), "x", ["a", None]),
        (pa.RunEndEncodedArray.from_arrays([1, 2], ["a", None]), "x", ["a", None]),
        (pa.array(["a", None], pa.large_string()), "x", ["a", None]),
        (pa.array(["a", None], pa.string_view()), "x", ["a", None]),
        (pa.array([b"a", None], pa.binary(1)), "x = x'61'", [True, None]),
        (pa.array([b"\0" * 16, None], pa.uuid()), "x IS NULL", [False, True]),
        (pa.array([1, None], pa.timestamp("s")), "x < timestamp '1970-01-01 00:00:02'", [True, None]),
        (pa.array([1, None], pa.timestamp("ns", "Europe/Paris")), "EXTRACT(hour FROM x)", [1, None]),
        (pa.nulls(2), "x IS NULL", [True, True]),
        (pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)), "x IS NULL", [False, True]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_evaluate__reads_the_types_of_arrow(column, sql, expected):
    table = pa.table({"x": column, "other": pa.nulls(2, pa.decimal256(40, 2))})
    expression = RowExpression.parse(sql)
    result = expression.evaluate(table)
    assert result.to_pylist() == expected
    assert result.type == expression.check(table.schema)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("s", pa.string()),
        ("STRING_TO_ARRAY(s, ',')", pa.list_(pa.string())),
        ("CAST(s AS BLOB)", pa.binary()),
        ("st", pa.struct([("a", pa.int64()), ("b", pa.string())])),
        ("i > 1", pa.bool_()),
        ("cat", pa.string()),
        ("NULL", pa.null()),
    ],
)
def test_result__has_a_plain_type(sql, expected):
    assert RowExpression.parse(sql).evaluate(TABLE).type == expected


def test_columns__are_those_named_in_order():
    assert RowExpression.parse("p > i AND st.a = p AND \"s\" = 'n'").columns == ("p", "i", "st", "s")
    assert RowExpression.parse("1 + 1").columns == ()


@pytest.mark.parametrize("sql", ['"now" > 1', "s = 'now()'", "\"current_date\" = 'select'", "today = 1", "e = 'x'"])
def test_words__in_text_and_names_are_free(sql):
    assert RowExpression.parse(sql)


def test_any_name__of_a_column_works():
    table = pa.table({'weird "name"': [1, 2], "result": [3, 4], "": [5, 6]})
    assert RowExpression.parse('"weird ""name""" + result').evaluate(table).to_pylist() == [4, 6]


def test_value__that_cannot_be_computed_is_one_line():
    with pytest.raises(ExpressionError, match=r"^conversion from `str` to `i32` failed in column 's'"):
        RowExpression.parse("CAST(s AS INT)").evaluate(TABLE)


def test_predicate__keeps_three_values_and_nan_is_the_greatest():
    assert RowExpression.parse("f > 0.2").predicate(TABLE).to_pylist() == [
        True,
        True,
        None,
        False,
        True,
        False,
        True,
    ]
    assert RowExpression.parse("NULL").predicate(TABLE.slice(0, 2)).to_pylist() == [None, None]
    assert RowExpression.parse("TRUE").predicate(TABLE.slice(0, 0)).to_pylist() == []


@pytest.mark.parametrize("run", [lambda e: e.predicate(TABLE), lambda e: e.check_predicate(TABLE.schema)])
def test_predicate__refuses_a_value_that_is_no_condition(run):
    with pytest.raises(ExpressionError, match=r"expected a condition \(true or false\), got a value of type int64"):
        run(RowExpression.parse("i + 1"))


def test_expression__can_be_sent_to_another_process():
    expression = pickle.loads(pickle.dumps(RowExpression.parse("i > 1")))
    assert expression == RowExpression.parse("i > 1")
    assert expression.evaluate(TABLE).to_pylist() == RowExpression.parse("i > 1").evaluate(TABLE).to_pylist()
