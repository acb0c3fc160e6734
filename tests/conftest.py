"""The S3 endpoint: one for all tests, a bucket for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.s3 import Bucket, Endpoint, make_bucket, serving, use


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A server on loopback; started for the first test that asks."""
    pytest.importorskip("s3fs", reason="needs the extra s3")
    with serving(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket that this process can use."""
    use(s3.url, s3.env, monkeypatch)
    return make_bucket(s3)
