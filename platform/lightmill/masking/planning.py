"""Which rules of a policy concern a column: the first rule that fits decides. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightmill.masking.detector import Detector, spoken
from lightmill.masking.registry import DETECTORS, detectors_named
from lightmill.records.masking import MaskingPolicy, MaskingRule


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnPlan:
    """What happens to a column or to a field of it.

    Attributes:
        path: The column's name, with `.field` for each struct above the value.
        label: What placeholders and domains call its values: the tag that a rule named, else the path.
        said: The path and the tags as words, in which detectors look for context.
        whole: The rule that treats every value, or None.
        finding: The detectors to look with, strongest first, each with the rule that named it.
        numeric: Those of `finding` that look at whole numbers: a rule names the column, or `said` is their context.
    """

    path: str
    label: str
    said: str
    whole: MaskingRule | None
    finding: tuple[tuple[Detector, MaskingRule], ...]
    numeric: tuple[tuple[Detector, MaskingRule], ...]

    @property
    def bare(self) -> frozenset[str]:
        """Return the detectors whose weak finds count without context."""
        return frozenset(detector.name for detector, rule in self.finding if rule.bare)


def plan_column(
    policy: MaskingPolicy, path: str, tags: Sequence[str], known: Mapping[str, Detector] = DETECTORS
) -> ColumnPlan:
    """Return what a policy does by known detectors to the values at `path`, whose column has these tags.

    A rule without detectors that fits decides over every value, wherever it stands among the rules; else each
    detector looks for the first rule that fits and names it, and a rule that keeps takes its detectors out.

    Raises:
        RequestError: A rule names a detector that does not exist.
    """
    fitting = [rule for rule in policy.rules if _fits(rule, path, tags)]
    whole = next((rule for rule in fitting if not rule.detectors), None)
    first: dict[str, tuple[Detector, MaskingRule]] = {}
    if whole is None:
        for rule in fitting:
            for detector in detectors_named(rule.detectors, known, f"masking policy {policy.name!r}"):
                first.setdefault(detector.name, (detector, rule))
    order = detectors_named(tuple(first), known, f"masking policy {policy.name!r}")
    said = " ".join(map(spoken, (path, *tags)))
    finding = tuple(first[detector.name] for detector in order if first[detector.name][1].action != "keep")
    tag = next((tag for tag in tags if whole and tag in whole.tags), None)
    return ColumnPlan(
        path=path,
        label=tag or path,
        said=said,
        whole=whole,
        finding=finding,
        numeric=tuple(
            (detector, rule)
            for detector, rule in finding
            if _names(rule, path, tags) or (detector.context and detector.context.search(said))
        ),
    )


def text_plan(policy: MaskingPolicy, known: Mapping[str, Detector] = DETECTORS) -> ColumnPlan:
    """Return what a policy does to text of no column, such as log lines: its rules without columns and tags."""
    return plan_column(policy, "", (), known)


def _fits(rule: MaskingRule, path: str, tags: Sequence[str]) -> bool:
    return not (rule.columns or rule.tags) or _names(rule, path, tags)


def _names(rule: MaskingRule, path: str, tags: Sequence[str]) -> bool:
    if not path:
        return False
    named = any(name in ("*", path) or path.startswith(f"{name}.") for name in rule.columns)
    return named or not set(tags).isdisjoint(rule.tags)
