"""Versions that the bytes of a build depend on."""

from __future__ import annotations

import platform

from curation import __version__


def versions() -> dict[str, str]:
    """Name and version of everything whose change may change a byte; two machines must agree on all of them."""
    import numpy
    import polars
    import pyarrow

    from curation.hashing import HASH_VERSION
    from curation.io.parquet_profile import PROFILE

    return {
        "curation": __version__,
        "hash": str(HASH_VERSION),
        "layout": str(PROFILE),
        "machine": platform.machine(),
        "numpy": numpy.__version__,
        "polars": polars.__version__,
        "pyarrow": pyarrow.__version__,
    }
