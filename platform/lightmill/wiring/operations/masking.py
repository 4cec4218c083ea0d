"""Masking policies from the command line: add, list, show, and try one on a text or a file of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from lightmill.datasets.sources.opening import open_source
from lightmill.datasets.sources.port import BadRow
from lightmill.errors import RequestError
from lightmill.masking import DETECTORS, Masker
from lightmill.masking.registry import detectors_named
from lightmill.records.base import Record
from lightmill.records.jobs import Progress
from lightmill.records.masking import MaskingPolicy, MaskingReport, SignedPolicy, parse_masking_policy
from lightmill.records.specs import read_spec_file
from lightmill.wiring.operations import OperationContext
from lightmill.wiring.operations.datasets import SOURCE, described
from lightmill.wiring.platform import Platform, open_platform

ROWS_MAX = 100_000


class AddPolicyOptions(Record):
    """The absolute path of a policy file: `name` and `rules` as YAML."""

    path: str


class ListPoliciesOptions(Record):
    """Nothing to choose."""


class PolicyList(Record):
    """All policies, by name and number, each with its signature verified."""

    policies: tuple[SignedPolicy, ...]


class ShowPolicyOptions(Record):
    """`name@2`, or `name` for the newest number."""

    reference: str


class CheckPolicyOptions(Record):
    """A policy, by `name@2` or as the absolute path of a policy file, and what to try it on: a text or a file.

    `tags` are those of the file's columns; `format` is for a file whose name tells none. At most `rows` rows are read.
    """

    policy: str
    text: str | None = None
    path: str | None = None
    format: str | None = None
    tags: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    rows: int = Field(default=ROWS_MAX, ge=1)


class PolicyCheck(Record):
    """What a policy does: counts that hold no value, and of a text what is left of it."""

    report: MaskingReport
    masked: str | None = None
    dropped: tuple[str, ...] = ()
    unreadable: int = 0
    whole: bool = True


def add(context: OperationContext, options: AddPolicyOptions) -> SignedPolicy:
    """Give a policy its next number.

    Raises:
        RequestError: It is no policy, a detector does not exist, or it says another number than it gets.
    """
    policy = _read_policy(Path(options.path))
    platform = open_platform(context.settings)
    with platform.catalog:
        return platform.policies.add(policy)


def list_policies(context: OperationContext, options: ListPoliciesOptions) -> PolicyList:
    """List all policies."""
    platform = open_platform(context.settings)
    with platform.catalog:
        return PolicyList(policies=tuple(platform.policies.list()))


def show(context: OperationContext, options: ShowPolicyOptions) -> SignedPolicy:
    """Return one policy.

    Raises:
        NotFoundError: There is none of this name and number.
    """
    platform = open_platform(context.settings)
    with platform.catalog:
        return platform.policies.get(options.reference)


def check(context: OperationContext, options: CheckPolicyOptions) -> PolicyCheck:
    """Say what a policy finds and does in a text or in the first rows of a file; nothing is written or sent.

    Raises:
        NotFoundError: There is no such policy or file.
        RequestError: A rule names a column that the file has not, or no rule looks at a text without columns.
    """
    if (options.text is None) == (options.path is None):
        raise RequestError("Give a text or a file to check the policy on, and not both.")
    platform = open_platform(context.settings)
    with platform.catalog:
        file = options.policy.startswith("/")
        policy = _read_policy(Path(options.policy)) if file else platform.policies.get(options.policy).policy
    key = _key(platform)
    if options.text is not None:
        return _check_text(policy, key, options.text)
    return _check_file(context, policy, key, options)


def _read_policy(path: Path) -> MaskingPolicy:
    policy = parse_masking_policy(read_spec_file(path), str(path))
    for rule in policy.rules:
        detectors_named(rule.detectors, DETECTORS, str(path))
    return policy


def _key(platform: Platform) -> bytes:
    return platform.registry.keyring.masking_key(platform.settings.workspace)


def _check_text(policy: MaskingPolicy, key: bytes, text: str) -> PolicyCheck:
    """Apply what the policy does to text of no column: its rules that name neither columns nor tags."""
    free = tuple(rule for rule in policy.rules if not rule.columns and not rule.tags)
    if not free:
        raise RequestError(
            f"Every rule of {policy.name!r} names columns or tags, so none looks at a text alone; check it on a file."
        )
    masked, report = Masker(policy.model_copy(update={"rules": free}), key).apply(pa.table({"": [text]}))
    return PolicyCheck(report=report, masked=masked.column(0)[0].as_py())


def _check_file(
    context: OperationContext, policy: MaskingPolicy, key: bytes, options: CheckPolicyOptions
) -> PolicyCheck:
    spec = SOURCE.validate_python(described(str(options.path), options.format))
    source = open_source(spec, Path("/"))
    types = _with_numbers(source.schema(), policy, options.tags)
    if types:
        source = open_source(spec, Path("/"), types)
    masker = Masker(policy, key, tags=options.tags)
    empty, report = masker.apply(source.schema().empty_table(), pa.array([], pa.int64()))
    bad: list[BadRow] = []
    for part in source.parts():
        for chunk in source.read(part, on_bad=bad.append):
            left = options.rows - report.rows
            table = chunk.table.slice(0, left)
            report += masker.apply(table, chunk.row_ids().slice(0, left))[1]
            context.report(Progress(phase="check", done=report.rows, total=0, unit="rows"))
            if report.rows >= options.rows:
                return _checked(report, source.schema(), empty.schema, bad, whole=False)
    return _checked(report, source.schema(), empty.schema, bad, whole=True)


def _with_numbers(schema: pa.Schema, policy: MaskingPolicy, tags: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    """Return the types of all columns where noise is for one that the file has as text, as CSV has all; else none."""
    noisy = [rule for rule in policy.rules if rule.action == "noise"]
    named = {
        field.name
        for field in schema
        for rule in noisy
        if pa.types.is_string(field.type) and (field.name in rule.columns or {*rule.tags} & {*tags.get(field.name, ())})
    }
    return {field.name: pa.float64() if field.name in named else field.type for field in schema} if named else {}


def _checked(report: MaskingReport, before: Any, after: Any, bad: list[BadRow], *, whole: bool) -> PolicyCheck:
    dropped = tuple(name for name in before.names if name not in after.names)
    return PolicyCheck(report=report, dropped=dropped, unreadable=len(bad), whole=whole)
