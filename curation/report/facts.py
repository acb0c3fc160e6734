"""What the manifest alone says: the sentence about the build, warnings, the flow of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from curation.io.manifest import Manifest

TINY_ROWS = 100
SMALL_GROUP = 10
SMALL_SHOWN = 5


@dataclass(frozen=True)
class Step:
    """One step of the flow to this output; ``into + made = out + aside + dropped``."""

    name: str
    kind: str
    detail: str
    into: int
    made: int
    out: int
    aside: int
    dropped: Mapping[str, int]

    @property
    def lost(self) -> int:
        """Rows dropped for any reason."""
        return sum(self.dropped.values())


@dataclass(frozen=True)
class Small:
    """Groups of few rows: the smallest with their rows, and the number of all."""

    first: list[tuple[str, int]]
    total: int


@dataclass(frozen=True)
class Warned:
    """Something that the reader should look at first."""

    level: str  # "warn" | "note"
    text: str


def plural(n: int, one: str, many: str = "") -> str:
    """Write ``1 row`` or ``1,234 rows``."""
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def chain(content: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Input that an output comes from, and the stages on the way; of several tables that flow in, the first."""
    ref = str(content["recipe"]["outputs"][content["output"]]["from"])
    stages: list[str] = []
    while (name := ref.partition(".")[0]) in content["stages"]:
        stages.append(name)
        flows = content["stages"][name]["from"]
        ref = str(flows[0] if isinstance(flows, list) else flows)
    return ref, stages[::-1]


def flow(manifest: Manifest) -> list[Step]:
    """Steps from the input to this output."""
    content = manifest.content
    source, stages = chain(content)
    wanted = [content["stages"][name]["in"] for name in stages] + [manifest.rows]
    account = content["inputs"][source]
    lost = {"not selected": account["not_selected"], "quarantined": account["quarantined"]}
    lost = {reason: n for reason, n in lost.items() if n}
    left = account["read"] - sum(lost.values())
    files = plural(len(account["files"]), "file")
    steps = [Step(source, "input", files, account["read"], 0, wanted[0], left - wanted[0], lost)]
    for name, following in zip(stages, wanted[1:], strict=True):
        each = content["stages"][name]
        dropped = {reason: n for reason, n in sorted(each["dropped"].items()) if n}
        # the other parts of a split, or rows that another stage reads as well, do not come this way
        aside = each["out"] - following
        steps.append(
            Step(name, each["use"], _detail(content, name), each["in"], each["created"], following, aside, dropped)
        )
    return steps


_TELLING = ("where", "by", "shares", "long_tail", "n", "fraction", "quotas", "label", "target", "columns", "k")


def _detail(content: Mapping[str, Any], name: str) -> str:
    """Options that tell most about a stage, short."""
    options = next(each for each in content["recipe"]["stages"] if each["name"] == name)
    told = [f"{key}: {short(friendly(options[key]))}" for key in _TELLING if key in options]
    return " · ".join(told[:3])


def friendly(value: Any) -> Any:
    """Lists of ``[key, value]``, which the manifest writes for keys that are not text, as mappings again."""
    if isinstance(value, dict):
        return {key: friendly(item) for key, item in value.items()}
    if isinstance(value, list):
        pairs = value and all(isinstance(each, list) and len(each) == 2 for each in value)
        if pairs and all(isinstance(each[0], int | float | bool) for each in value):
            return {each[0]: friendly(each[1]) for each in value}
        return [friendly(each) for each in value]
    return value


def short(value: Any, limit: int = 80) -> str:
    """Value as text of a bounded length."""
    if isinstance(value, dict):
        text = ", ".join(f"{key} {short(item)}" for key, item in value.items())
    elif isinstance(value, list):
        text = ", ".join(str(item) for item in value)
    else:
        text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def sentence(manifest: Manifest, steps: list[Step]) -> str:
    """What was built, in one sentence."""
    content = manifest.content
    read, stages = steps[0], steps[1:]
    through = ""
    if stages:
        names = [step.name if step.name == step.kind else f"{step.name} ({step.kind})" for step in stages]
        through = " through " + (" and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0])
    return (
        f"{plural(manifest.rows, 'row')} made from {plural(read.into, 'row')} of input {read.name}{through}, "
        f"with seed {content['seed']}."
    )


def warnings(manifest: Manifest, steps: list[Step], small_groups: Small) -> list[Warned]:
    """What a reader should look at first, the gravest first."""
    found = [*_about_size(manifest, small_groups), *_about_inputs(manifest), *_about_steps(steps), *_noted(manifest)]
    return sorted(found, key=lambda warned: warned.level != "warn")


def _about_size(manifest: Manifest, small_groups: Small) -> Iterator[Warned]:
    if manifest.rows == 0:
        yield Warned("warn", "The result has no rows.")
    elif manifest.rows < TINY_ROWS:
        yield Warned("warn", f"The result is tiny: {plural(manifest.rows, 'row')}.")
    if small_groups.total:
        shown = ", ".join(f"{short(name)} ({n:,})" for name, n in small_groups.first)
        rest = small_groups.total - len(small_groups.first)
        more = f" and {plural(rest, 'more group')}" if rest else ""
        yield Warned("warn", f"Groups with fewer than {SMALL_GROUP} rows: {shown}{more}.")


def _about_inputs(manifest: Manifest) -> Iterator[Warned]:
    for name, account in manifest.content["inputs"].items():
        if account["quarantined"]:
            rows = plural(account["quarantined"], "row")
            yield Warned("warn", f"{rows} of input {name} could not be used and went to quarantine.")
        for lost in account["unreadable_files"]:
            yield Warned("warn", f"File {lost['path']} of input {name} is unreadable: {lost['reason']}")


def _about_steps(steps: list[Step]) -> Iterator[Warned]:
    for step in steps:
        if step.kind != "input" and step.into and step.lost > step.into / 2:
            level = "note" if step.kind == "sample" else "warn"  # a sample is meant to leave rows out
            share = f"{step.lost / step.into:.0%}"
            yield Warned(level, f"Stage {step.name} dropped {share} of the rows that came to it.")


def _noted(manifest: Manifest) -> Iterator[Warned]:
    for stage, notes in manifest.content["notes"].items():
        for topic, each in notes.items() if isinstance(notes, dict) else [("", notes)]:
            if each:
                place = f"{stage}, {topic}" if topic else stage
                owner = f"The {place}" if stage.startswith("feed of ") else f"Stage {place}"
                yield Warned("note", f"{owner}: {short(each, 300)}")
