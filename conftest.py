"""What pytest leaves out: modules of extras that are not installed."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("torch") else ["curation/feed/torch.py"]
