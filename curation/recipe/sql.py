"""The SQL texts of a recipe, parsed so that mistakes show before any data is read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, runtime_checkable

from curation.errors import Problem
from curation.recipe.model import InputSpec, Recipe, StageSpec
from curation.recipe.source import KeyPath


@runtime_checkable
class HasExpressions(Protocol):
    """Options of a method that hold SQL."""

    def expressions(self) -> dict[tuple[str, ...], str]:
        """Give the SQL texts by the place of their key under the stage."""
        ...


def input_expressions(name: str, spec: InputSpec) -> Iterator[tuple[KeyPath, str]]:
    """Give the SQL texts of an input by key path."""
    if spec.where is not None:
        yield ("inputs", name, "where"), spec.where


def stage_expressions(index: int, params: object) -> Iterator[tuple[KeyPath, str]]:
    """Give the SQL texts of a stage by key path."""
    if isinstance(params, HasExpressions):
        for keys, text in params.expressions().items():
            yield ("stages", index, *keys), text


def expression_faults(texts: Iterable[tuple[KeyPath, str]]) -> Iterator[tuple[KeyPath, str]]:
    """Find the SQL texts that are no row-wise expressions; Polars is imported only if there is a text."""
    for path, text in texts:
        from curation.expressions import ExpressionError, RowExpression

        try:
            RowExpression.parse(text)
        except ExpressionError as error:
            yield path, str(error)


def check_expressions(recipe: Recipe) -> list[Problem]:
    """Problems of all SQL in a recipe, in its order; types are checked later, when the columns are known."""
    texts = [found for name, spec in recipe.inputs.items() for found in input_expressions(name, spec)]
    stages: list[StageSpec] = sorted(recipe.stages, key=lambda stage: stage.index)
    texts += [found for stage in stages for found in stage_expressions(stage.index, stage.params)]
    return [recipe.problem(path, message) for path, message in expression_faults(texts)]
