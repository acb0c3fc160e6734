"""Writes data/manpages.parquet: paragraphs of manual pages in eight languages, from packages of Debian.

Needs `apt-get` and `dpkg-deb` with a Debian of its own; nothing is installed. The packages go to a temporary folder.
"""

from __future__ import annotations

import argparse
import gzip
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

LANGUAGES = ("de", "fr", "pl", "es", "it", "pt-br", "nl", "da")
PIECE_BYTES = 128
"""Longest text of a row; paragraphs are cut at spaces [bytes of UTF-8]."""
FEWEST_BYTES = 32
"""Shorter pieces are left out: most are names of options."""
DEFAULT = Path(__file__).resolve().parents[2] / "data" / "manpages.parquet"

BREAKS = {"SH", "SS", "TH", "PP", "P", "LP", "IP", "TP", "TQ", "HP", "RS", "RE", "sp", "br", "Sh", "Ss", "Pp", "It"}
"""Requests of roff that end a paragraph."""
HIDDEN = {"nf": "fi", "EX": "EE", "TS": "TE", "ig": "."}
"""Requests that begin what is no running text (examples, tables, comments), each with the one that ends it."""
FONTS = {"B", "I", "BR", "RB", "BI", "IB", "IR", "RI", "SM", "SB"}
"""Requests whose arguments are text."""
ESCAPES = (
    (r"\\f(?:\[\w*\]|\(..|.)", ""),
    (r"\\\*?\(..|\\\*?\[[^]]*\]", " "),
    (r"\\s[-+]?\d", ""),
    (r"\\[&|^/,%c:]", ""),
)
CHARACTERS = {r"\-": "-", r"\e": "\\", r"\(aq": "'", r"\(dq": '"', r"\(co": "©", r"\(bu": "•", r"\~": " ", r"\ ": " "}


def plain(line: str) -> str:
    r"""Text of a line without the escapes of roff.

    >>> plain(r"\fBls\fP \- list\ files\&")
    'ls - list files'
    """
    for escape, character in CHARACTERS.items():
        line = line.replace(escape, character)
    for pattern, instead in ESCAPES:
        line = re.sub(pattern, instead, line)
    return re.sub(r"\s+", " ", line).strip()


def paragraphs(source: str) -> Iterator[str]:
    """Running text of a manual page; headings, examples and tables are left out."""
    held: list[str] = []
    hidden_until = ""
    for line in source.splitlines():
        request, _, rest = line[1:].partition(" ") if line[:1] in (".", "'") else ("", "", line)
        if hidden_until:
            hidden_until = "" if line[:1] == "." and line[1:].strip() == hidden_until else hidden_until
        elif request in HIDDEN:
            hidden_until = HIDDEN[request]
        elif request in FONTS:
            held.append(rest.replace('"', ""))
        elif not request and line[:1] not in (".", "'") and rest.strip():
            held.append(rest)
        elif request in BREAKS or not rest.strip():
            yield plain(" ".join(held))
            held = []
    yield plain(" ".join(held))


def pieces(text: str) -> Iterator[str]:
    """Text in pieces of up to ``PIECE_BYTES``, cut at spaces."""
    held = ""
    for word in text.split(" "):
        longer = f"{held} {word}" if held else word
        if len(longer.encode()) > PIECE_BYTES:
            yield held
            held = word
        else:
            held = longer
    yield held


def rows_of(package: str, language: str, folder: Path) -> Iterator[dict[str, str]]:
    """Rows of an unpacked package, page by page in the order of their names."""
    for file in sorted(folder.glob("usr/share/man/*/man[1-8]/*.gz")):
        if file.is_symlink():
            continue
        source = gzip.decompress(file.read_bytes()).decode("utf-8", "replace")
        for paragraph in paragraphs(source):
            for text in pieces(paragraph):
                if FEWEST_BYTES <= len(text.encode()) <= PIECE_BYTES and "\ufffd" not in text:
                    yield {
                        "language": language,
                        "package": package,
                        "page": file.name.removesuffix(".gz"),
                        "text": text,
                    }


def fetch(language: str, folder: Path) -> tuple[str, Path]:
    """Download and unpack the pages of a language; gives name with version of the package, and where it is."""
    subprocess.run(["apt-get", "download", "-q", f"manpages-{language}"], cwd=folder, check=True, capture_output=True)
    [archive] = folder.glob(f"manpages-{language}_*.deb")
    unpacked = folder / language
    subprocess.run(["dpkg-deb", "-x", str(archive), str(unpacked)], check=True)
    return "_".join(archive.name.replace("%3a", ":").split("_")[:2]), unpacked


def manpages() -> pa.Table:
    """Rows of all languages: ``language``, ``package`` (with version), ``page`` (name and section) and ``text``."""
    found: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for language in LANGUAGES:
            package, unpacked = fetch(language, Path(folder))
            found += rows_of(package, language, unpacked)
    return pa.Table.from_pylist(
        found, pa.schema([(name, pa.string()) for name in ("language", "package", "page", "text")])
    )


def main() -> None:
    """Fetch, write, and say how much there is of each language."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=DEFAULT, help="file to write [data/manpages.parquet]")
    path = parser.parse_args().path
    table = manpages()
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="zstd")
    for each in table.group_by("language").aggregate([("text", "count")]).to_pylist():
        print(f"{each['language']:<6}{each['text_count']:>8,} rows")


if __name__ == "__main__":
    main()
