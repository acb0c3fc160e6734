"""What a text says by itself about being a URL: no network, no libraries."""

from __future__ import annotations

import re


def is_url(text: str) -> bool:
    """Whether a text names something in a store rather than a local file; ``file://`` is local."""
    return "://" in text and not text.startswith("file://")


def local_text(text: str) -> str:
    """Local path without ``file://``."""
    return text.removeprefix("file://")


def redacted(text: str) -> str:
    """URL without what may be secret: user, password, query and fragment; a local path stays as it is."""
    if not is_url(text):
        return text
    bare = re.sub(r"://[^/?#]*@", "://", text)
    return re.split(r"[?#]" if protocol_of(text) in ("http", "https") else r"[?]", bare, maxsplit=1)[0]


def protocol_of(url: str) -> str:
    """Part of a URL before ``://``."""
    return url.partition("://")[0]
