"""Compressed streams: all members, every good byte before a fault, and the place of the fault."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random

import pyarrow as pa
import pytest

from curation.io.records.base import BrokenStreamError
from curation.io.records.streams import TAKE_BYTES, Inflated, open_stream

COMPRESS = {
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}
SUFFIXES = sorted(COMPRESS)
TEXT = random.Random(1).randbytes(200_000) + b"line of text\n" * 30_000


def everything(stream, size=50_000):
    """All bytes that come, and the error that ends them."""
    found = []
    try:
        while piece := stream.read(size):
            found.append(piece)
    except BrokenStreamError as error:
        return b"".join(found), str(error)
    return b"".join(found), ""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_stream__of_several_members_is_their_sum(suffix):
    packed = COMPRESS[suffix](TEXT) + COMPRESS[suffix](b"more")
    assert everything(open_stream(io.BytesIO(packed), "a" + suffix)) == (TEXT + b"more", "")


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_stream__zeros_after_the_last_member_are_padding(suffix):
    packed = COMPRESS[suffix](TEXT) + bytes(1024)
    assert everything(open_stream(io.BytesIO(packed), "a" + suffix)) == (TEXT, "")


def test_stream__of_a_plain_name_is_the_file_itself():
    raw = io.BytesIO(TEXT)
    assert open_stream(raw, "a.jsonl") is raw


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_stream__cut_short_gives_a_prefix_and_then_says_where(suffix):
    packed = COMPRESS[suffix](TEXT)
    found, error = everything(open_stream(io.BytesIO(packed[: len(packed) * 3 // 4]), "a" + suffix))
    assert TEXT.startswith(found)
    assert f"decompressed byte {len(found)}:" in error


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_stream__garbage_after_a_member_costs_no_byte_of_it(suffix):
    packed = COMPRESS[suffix](TEXT) + b"this is something else"
    found, error = everything(open_stream(io.BytesIO(packed), "a" + suffix))
    assert found == TEXT
    at = int(error.split("compressed byte ")[1].split(",")[0])
    assert len(packed) - 22 <= at <= len(packed)


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz"])
def test_stream__a_flipped_bit_is_found(suffix):
    packed = bytearray(COMPRESS[suffix](TEXT))
    packed[len(packed) // 2] ^= 4
    _, error = everything(open_stream(io.BytesIO(bytes(packed)), "a" + suffix))
    assert error.startswith(f"a{suffix}: broken at compressed byte ")


def test_stream__a_wrong_check_sum_costs_no_byte():
    packed = bytearray(COMPRESS[".gz"](TEXT))
    packed[-6] ^= 1
    found, error = everything(open_stream(io.BytesIO(bytes(packed)), "a.gz"))
    assert found == TEXT
    assert "incorrect data check" in error


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_stream__without_a_byte_is_broken(suffix):
    assert everything(open_stream(io.BytesIO(b""), "a" + suffix))[1].endswith("it holds no byte")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_stream__a_bomb_is_read_in_small_pieces(suffix):
    packed = COMPRESS[suffix](bytes(64 << 20))
    stream = open_stream(io.BytesIO(packed), "a" + suffix)
    assert len(stream.read(1000)) == 1000
    assert isinstance(stream, Inflated)
    assert len(stream._rest) <= TAKE_BYTES
