"""The stage does what it says, and keeps what the kit holds every stage to."""

import re

import pyarrow as pa
import pytest
from curation_mask_emails import ADDRESS, MaskEmails, MaskEmailsStage

from curation.stages.base import BindError
from curation.testing import check_build, check_params, check_stage, rows_of

TEXTS = [
    "write to ann.lee+news@mail.example.org, not to bob@example.com",
    "no address: a@b, @home, me @ example.org",
    None,
    "",
    "x@y.z1 and q@y.info!",
    "ärger@example.net",
    "a@b.cd" * 3,
    "plain words",
]
TABLE = rows_of(len(TEXTS), text=TEXTS, n=list(range(len(TEXTS))))
RECIPE = """
recipe: 1
name: masked
seed: 1
inputs: {rows: {path: rows}}
stages:
  - {use: mask_emails, column: text}
  - {use: filter, where: "n_emails > 0"}
output: {path: out}
"""


def masked(table=TABLE, **options):
    params = MaskEmails(column="text", **options)
    return MaskEmailsStage("here", params, 0).apply(table, None).tables[""]


def test_params__keep_what_users_may_expect():
    check_params(MaskEmails, column="text", mask="***")


def test_stage__keeps_its_promises():
    check_stage(MaskEmailsStage, MaskEmails(column="text"), TABLE)


def test_build__gives_the_same_bytes_and_the_rows_with_addresses():
    table = check_build(RECIPE, {"rows": TABLE.drop_columns(["_row_id"])})["output"]
    assert table.column("text")[0].as_py() == "write to [email], not to [email]"
    assert sorted(table.column("n").to_pylist()) == [0, 4, 5, 6]


def test_mask__agrees_with_the_regular_expressions_of_python():
    expected = [None if text is None else re.subn(ADDRESS, "[email]", text) for text in TEXTS]
    table = masked()
    found = zip(table.column("text").to_pylist(), table.column("n_emails").to_pylist(), strict=True)
    assert [None if text is None else (text, n) for text, n in found] == expected


def test_mask__may_hold_a_backslash():
    assert masked(mask=r"\0").column("text")[0].as_py() == r"write to \0, not to \0"


def test_bind__refuses_what_is_not_text():
    with pytest.raises(BindError, match="column 'n' is int64, not text"):
        MaskEmailsStage("here", MaskEmails(column="n"), 0).bind(TABLE.schema)


def test_bind__refuses_a_name_that_is_taken():
    with pytest.raises(BindError, match="column 'n' is there already"):
        MaskEmailsStage("here", MaskEmails(column="text", count="n"), 0).bind(TABLE.schema)


def test_bind__accepts_large_strings():
    schema = pa.schema([("text", pa.large_string()), ("_row_id", pa.uint64())])
    out = MaskEmailsStage("here", MaskEmails(column="text"), 0).bind(schema)
    assert out.names == ["text", "n_emails", "_row_id"]
