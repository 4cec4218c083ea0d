"""Versions of datasets on a node with the key ring: compare, trace, export, describe; and retention of any kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from lightmill.datasets.described import described
from lightmill.datasets.diff import diff
from lightmill.datasets.exporting import ExportedDataset, describe_sealed, export_version
from lightmill.datasets.tracing import trace_position, trace_row
from lightmill.errors import RequestError
from lightmill.records.base import Record, now_iso
from lightmill.records.dataset_versions import DatasetDiff, RowTrace
from lightmill.records.references import AssetKind, check_name, parse_reference
from lightmill.records.retention import RetentionPlan, RetentionPolicy
from lightmill.registry import OpenVersion
from lightmill.registry.retention import apply_retention, plan_retention
from lightmill.wiring.operations import OperationContext
from lightmill.wiring.platform import Platform, open_platform


class DiffOptions(Record):
    """Which version to compare with which."""

    old: str
    new: str


class RowOptions(Record):
    """Which row: by its id, or by its place in a split, from 0."""

    reference: str
    row_id: int | None = None
    split: str | None = None
    position: int | None = None


class ExportOptions(Record):
    """What to export to which absolute path; without columns or splits, all. `force` replaces an earlier export."""

    reference: str
    folder: str
    columns: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    force: bool = False


class DescribeOptions(Record):
    """Which version to describe."""

    reference: str


class VersionText(Record):
    """A description of a version, as it is printed."""

    version: str
    text: str


class RetentionOptions(Record):
    """Which asset, what keeps a version, and whether to delete the others; without `apply` nothing is written."""

    kind: Literal["dataset", "model"]
    name: str
    policy: RetentionPolicy
    apply: bool = False


def diff_versions(context: OperationContext, options: DiffOptions) -> DatasetDiff:
    """Compare two versions by manifest and profile.

    Raises:
        NotFoundError: There is no such version.
    """
    with _platform(context) as platform:
        old, new = (described(open_dataset(platform, reference)) for reference in (options.old, options.new))
    return diff(old, new)


def row(context: OperationContext, options: RowOptions) -> RowTrace:
    """Return a row and where it comes from; see `datasets.tracing` for the errors.

    Raises:
        RequestError: It is named neither by its id nor by its place, or by both.
    """
    by_place = options.split is not None and options.position is not None
    if (options.row_id is None) == (not by_place):
        raise RequestError("Name the row by its id, or by a split and a position from 0.")
    with _platform(context) as platform:
        version = open_dataset(platform, options.reference)
        if options.row_id is not None:
            return trace_row(version, options.row_id, context.report)
        return trace_position(version, options.split or "", options.position or 0)


def export(context: OperationContext, options: ExportOptions) -> ExportedDataset:
    """Write a version as plain Parquet files; see `exporting.export_version` for the errors."""
    with _platform(context) as platform:
        version = open_dataset(platform, options.reference)
        return export_version(
            version,
            platform.registry.notes(version.id),
            Path(options.folder),
            columns=options.columns,
            splits=options.splits,
            force=options.force,
            report=context.report,
        )


def croissant(context: OperationContext, options: DescribeOptions) -> VersionText:
    """Return a version's Croissant metadata; NotFoundError if there is no such version."""
    return _described(context, options, 0)


def card(context: OperationContext, options: DescribeOptions) -> VersionText:
    """Return a version's card; NotFoundError if there is no such version."""
    return _described(context, options, 1)


def _described(context: OperationContext, options: DescribeOptions, which: int) -> VersionText:
    with _platform(context) as platform:
        version = open_dataset(platform, options.reference)
        texts = describe_sealed(version, platform.registry.notes(version.id))
    return VersionText(version=str(version.id), text=texts[which])


def retention(context: OperationContext, options: RetentionOptions) -> RetentionPlan:
    """Say which versions of an asset would go and why; with `apply`, delete them.

    Raises:
        NotFoundError: There is no such asset.
    """
    kind = AssetKind(options.kind)
    with _platform(context) as platform:
        name = check_name(options.name, options.kind)
        plan = plan_retention(platform.registry, platform.catalog, kind, name, options.policy, now_iso())
        return apply_retention(platform.registry, plan) if options.apply else plan


def open_dataset(platform: Platform, reference: str) -> OpenVersion:
    """Return the dataset version that a reference selects; NotFoundError if there is none."""
    return platform.registry.open(platform.registry.resolve(AssetKind.DATASET, parse_reference(reference)))


@contextmanager
def _platform(context: OperationContext) -> Iterator[Platform]:
    platform = open_platform(context.settings)
    with platform.catalog:
        yield platform
