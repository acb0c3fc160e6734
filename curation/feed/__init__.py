"""The feed: when a trainer sees each row of a build."""

from curation.feed.loader import Loader
from curation.feed.options import FeedOptions, Shares
from curation.feed.permutation import ALGORITHM, Permutation, derive_key
from curation.feed.plan import FeedError, Plan, Repeats, Segment, write_plan
from curation.feed.shards import ShardSet

__all__ = [
    "ALGORITHM",
    "FeedError",
    "FeedOptions",
    "Loader",
    "Permutation",
    "Plan",
    "Repeats",
    "Segment",
    "ShardSet",
    "Shares",
    "derive_key",
    "write_plan",
]
