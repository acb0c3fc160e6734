"""From a manifest to what a loader reads: shards that are there and what they should be, and a plan that fits them."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np

from curation.feed.cache import CachedShards, StoredFile, StoredShard, file_hash
from curation.feed.evaluate import InOrder
from curation.feed.plan import FeedError, GroupValue, Plan
from curation.feed.shards import Format, RowSource, ShardSet
from curation.io.location import RemotePath, local
from curation.io.manifest import Manifest, Shard, Sidecar


def open_shards(
    manifest: Manifest, *, verify: bool = False, cache_dir: Path | None = None, cache_bytes: int | None = None
) -> RowSource:
    """Rows of a build, local or in a store.

    Parameters
    ----------
    manifest
        Of the build.
    verify
        Read all bytes of all shards and check their hashes; sizes are checked anyway.
    cache_dir
        Folder for shards of a store, kept from run to run; None is a copy that lives as long as this process.
    cache_bytes
        Most bytes there; None is no limit.

    Raises
    ------
    FeedError
        If a shard is missing, or is not what the manifest says.
    CurationError
        If a store does not give it.
    """
    format = cast("Format", manifest.content["shard_format"])
    if isinstance(manifest.root, Path):
        if cache_dir is not None or cache_bytes is not None:
            raise FeedError(f"cache_dir: expected a build in a store, got {manifest.root}; local shards need no cache")
        return _local_shards(manifest, manifest.root, format, verify)
    if cache_dir is None:
        if cache_bytes is not None:
            raise FeedError("cache_bytes: expected cache_dir, too; name a folder for the shards")
        return _copied_shards(manifest, format)
    shards = [_stored(manifest.root, shard) for shard in manifest.shards]
    folder = cache_dir / manifest.build_id
    return CachedShards(shards, manifest.schema, format, folder, max_bytes=cache_bytes, verify=verify)


def _local_shards(manifest: Manifest, root: Path, format: Format, verify: bool) -> ShardSet:
    for shard in manifest.shards:
        for file in (shard,) if shard.sidecar is None else (shard, shard.sidecar):
            _check_file(root / file.path, file, verify)
    paths = [root / shard.path for shard in manifest.shards]
    sidecars = [None if shard.sidecar is None else root / shard.sidecar.path for shard in manifest.shards]
    return ShardSet(paths, [shard.rows for shard in manifest.shards], format, sidecars=sidecars)


def _check_file(path: Path, file: Shard | Sidecar, verify: bool) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise FeedError(f"{path}: expected a shard, got {error.strerror}; restore it or build again") from error
    if size != file.bytes:
        raise FeedError(
            f"{path}: expected {file.bytes} bytes by the manifest, got {size}; the shard was cut short or replaced, "
            "restore it or build again"
        )
    if verify and (found := file_hash(path)) != file.xxh3:
        raise FeedError(f"{path}: expected the xxh3 {file.xxh3}, got {found}; it was changed, build again")


def _copied_shards(manifest: Manifest, format: Format) -> ShardSet:
    """Copies that are gone when the process ends."""
    shards = manifest.shards
    paths = [local(manifest.root / shard.path, xxh3=shard.xxh3) for shard in shards]
    sidecars = [
        None if shard.sidecar is None else local(manifest.root / shard.sidecar.path, xxh3=shard.sidecar.xxh3)
        for shard in shards
    ]
    return ShardSet(paths, [shard.rows for shard in shards], format, sidecars=sidecars)


def _stored(root: RemotePath, shard: Shard) -> StoredShard:
    def file(entry: Shard | Sidecar) -> StoredFile:
        return StoredFile(root / entry.path, entry.bytes, entry.xxh3)

    return StoredShard(shard.rows, file(shard), None if shard.sidecar is None else file(shard.sidecar))


def evaluation(manifest: Manifest, batch_size: int) -> InOrder:
    """Order that has every row of a build once."""
    return InOrder(manifest.rows, batch_size, manifest.build_id)


def check_groups(plan: Plan, shards: RowSource, column: str | None) -> None:
    """Refuse a plan whose groups are not where it says: looks at the first and the last row of each group.

    Raises
    ------
    FeedError
        If a row there is of another group, or plan and shards have other numbers of rows.
    """
    if plan.n_rows != shards.n_rows:
        raise FeedError(f"plan: expected {shards.n_rows} rows as in the shards, got {plan.n_rows}; build again")
    if column is None or column not in shards.check()[0].names:
        return
    found = plan.group_places()
    rows = np.array([row for _, start, stop in found for row in (start, stop - 1)], np.int64)
    names = [name for name, _, _ in found for _ in range(2)]
    values = shards.take(rows, [column])[column].tolist()
    for name, value, row in zip(names, values, rows.tolist(), strict=True):
        if _comparable(value) and _comparable(name) and value != name:
            raise FeedError(
                f"plan: expected row {row} to be of group {name!r} of {column}, got {value!r}; plan and shards belong "
                "to different builds, build again"
            )


def _comparable(value: GroupValue) -> bool:
    return value is None or isinstance(value, str | int)
