"""Small files of JSON lines, read as one text, give what each gives alone."""

import io

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from curation.io.records.base import Options
from curation.io.records.joined import JoinedLines
from curation.io.records.jsonl import JSONL

SCHEMA = pa.schema([("a", pa.int64()), ("t", pa.string())])
LINES = st.sampled_from(
    [b'{"a": 1}', b'{"a": 2, "t": "x"}', b"", b"  ", b"{", b'{"a": "no"}', b'{"t": "\xff"}', b'{"a": 3}\r', b"[1]"]
)
TEXTS = st.lists(
    st.builds(
        lambda lines, end, mark: mark + b"\n".join(lines) + end,
        st.lists(LINES, max_size=5),
        st.sampled_from([b"", b"\n"]),
        st.sampled_from([b"", b"\xef\xbb\xbf"]),
    ),
    min_size=1,
    max_size=6,
)


def found_in(blocks):
    blocks = list(blocks)
    return [row for block in blocks for row in block.table.to_pylist()], [bad for block in blocks for bad in block.bad]


@settings(deadline=None)
@given(TEXTS)
def test_joined__gives_the_rows_and_faults_of_every_text(texts):
    lines = JoinedLines(texts)
    rows, bad = found_in(lines.read(SCHEMA, Options()))
    alone = [found_in(JSONL.read(io.BytesIO(text), SCHEMA, Options(), name="a.jsonl")) for text in texts]
    assert rows == [row for each, _ in alone for row in each]
    assert lines.counts == [len(each) for each, _ in alone]
    assert [lines.place(each) for each in bad] == [(i, each) for i, (_, faults) in enumerate(alone) for each in faults]
