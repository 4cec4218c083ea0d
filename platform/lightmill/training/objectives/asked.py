"""What a specification asks of an objective."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from lightmill.errors import RequestError
from lightmill.records.specs import TrainSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The fields of a specification that objectives read; `allow_python` lets a custom one call a user's function."""

    target: str | None = None
    class_weights: Literal["balanced"] | tuple[float, ...] | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[str, ...] = ()
    allow_python: bool = False

    @classmethod
    def of(cls, spec: TrainSpec, *, allow_python: bool = False) -> Asked:
        """Return what a specification asks."""
        return cls(
            target=spec.target,
            class_weights=spec.class_weights,
            arguments=dict(spec.objective_arguments),
            metrics=spec.metrics,
            allow_python=allow_python,
        )

    def refuse_others(self, objective: str, *known: str) -> None:
        """Refuse arguments that the objective does not know.

        Raises:
            RequestError: There is one.
        """
        for name in self.arguments:
            if name not in known:
                has = f"it takes {', '.join(known)}" if known else "it takes none"
                raise RequestError(f"objective_arguments.{name} is unknown to `objective: {objective}`; {has}.")

    def refuse_target(self, objective: str) -> None:
        """Refuse a column to predict.

        Raises:
            RequestError: There is one.
        """
        if self.target is not None:
            raise RequestError(
                f"`target: {self.target}` is for mse, mae, huber and custom; `objective: {objective}` predicts the "
                "label. Leave `target` out, or choose another objective."
            )

    def refuse_weights(self, objective: str) -> None:
        """Refuse weights of classes.

        Raises:
            RequestError: There are some.
        """
        if self.class_weights is not None:
            raise RequestError(f"`class_weights` are for objectives with classes, not for {objective}; leave them out.")

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """Return an argument within limits.

        Raises:
            RequestError: It is no number within them.
        """
        found = self.arguments.get(name, default)
        if isinstance(found, bool) or not isinstance(found, int | float) or not low <= found <= high:
            raise RequestError(f"objective_arguments.{name} is {found!r}; give a number from {low:g} to {high:g}.")
        return float(found)
