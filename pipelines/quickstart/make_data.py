"""Writes data/digits.parquet from the handwritten digits that scikit-learn brings along; the same file every time."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

COMPONENTS = 16
DEFAULT = Path(__file__).resolve().parents[2] / "data" / "digits.parquet"


def principal_components(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Project images onto their first principal components.

    Parameters
    ----------
    pixels : (n, 64)
        Grey values in [0, 16].

    Returns
    -------
    (n, 16)
        Components. A component's largest loading is positive, and values are rounded to 1/1024, so that neither
        the sign nor the last bits depend on the linear algebra library.
    """
    pca = PCA(COMPONENTS, svd_solver="full").fit(pixels)
    loadings = pca.components_
    largest = loadings[np.arange(COMPONENTS), np.abs(loadings).argmax(axis=1)]
    found = pca.transform(pixels) * np.sign(largest)
    rounded: NDArray[np.float32] = (np.round(found * 1024) / 1024).astype(np.float32)
    return rounded


def digits_table() -> pa.Table:
    """Digits as a table: ``id``, ``label``, ``ink`` (sum of the pixels), ``pixels`` and ``pixels_pca``."""
    digits = load_digits()
    pixels = digits.data.astype(np.uint8)
    features = principal_components(digits.data)
    return pa.table(
        {
            "id": pa.array(np.arange(len(pixels)), pa.int32()),
            "label": pa.array(digits.target, pa.int8()),
            "ink": pa.array(pixels.sum(axis=1), pa.int16()),
            "pixels": pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), 64),
            "pixels_pca": pa.FixedSizeListArray.from_arrays(pa.array(features.reshape(-1)), COMPONENTS),
        }
    )


def write_digits(path: Path) -> None:
    """Write the table as Parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(digits_table(), path, compression="zstd")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=DEFAULT, help="file to write [%(default)s]")
    write_digits(parser.parse_args().path)
