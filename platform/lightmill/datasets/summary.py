"""What a version tells of its rows: the profile that people look at, and the shorter one that the catalog lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from lightmill.datasets.appending import Base
from lightmill.datasets.judging import Judged
from lightmill.datasets.measuring import Measured
from lightmill.datasets.profile_state import PROFILE_STATE_FILE, load_part
from lightmill.datasets.profiling import ProfilePart
from lightmill.datasets.sealed import SealedRows
from lightmill.datasets.verdicts import REASONS, action_for
from lightmill.records.assets import ColumnProfile, Profile
from lightmill.records.dataset_spec import DatasetSpec
from lightmill.records.masking import MaskingReport
from lightmill.records.profile import PROFILE_FILE, ColumnSummary, ProfileRecord
from lightmill.records.splitting import SPLITS


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The profile in its three forms: for people, for the catalog, and as sums for an append to come."""

    record: ProfileRecord
    profile: Profile
    part: ProfilePart


def summarized(spec: DatasetSpec, judged: Judged, measured: Measured, sealed: SealedRows, base: Base | None) -> Summary:
    """Return the profile of all rows of a version, those that it shares with `base` included."""
    part = measured.part
    record = measured.profiler.finish(part, spec.name, judged.tally)
    profile = _profile(spec, judged, measured, sealed, record)
    if base is None:
        return Summary(record=record, profile=profile, part=part)
    before = ProfileRecord.model_validate_json(base.version.read_file(PROFILE_FILE))
    part = load_part(base.version.read_file(PROFILE_STATE_FILE)) + part
    whole = measured.profiler.finish(part, spec.name)
    record = whole.model_copy(
        update={
            "rows_in": before.rows_in + record.rows_in,
            "rejected": _sum(before.rejected, record.rejected),
            "clipped": _sum(before.clipped, record.clipped),
        }
    )
    return Summary(record=record, profile=_joined(base.card.profile, profile, record), part=part)


def _profile(
    spec: DatasetSpec, judged: Judged, measured: Measured, sealed: SealedRows, record: ProfileRecord
) -> Profile:
    rejected: dict[str, Counter[str]] = {"drop": Counter(), "quarantine": Counter()}
    for (code, _), found in judged.tally.faults.items():
        action = action_for(code, spec.rules)
        if action in rejected:
            rejected[action][REASONS[code]] += found.rows
    splits = {name: sum(entry.rows or 0 for entry in sealed.files if entry.group == name) for name in SPLITS}
    classes: Counter[int] = Counter()
    for (_, code), count in sealed.classes.items():
        classes[code] += count
    return Profile(
        rows_in=judged.tally.rows,
        rows_kept=sum(splits.values()),
        dropped=dict(sorted(rejected["drop"].items())),
        quarantined=dict(sorted(rejected["quarantine"].items())),
        masked=measured.masked,
        clipped=sum(judged.tally.clipped.values()),
        splits=splits,
        classes={name: classes[code] for code, name in enumerate(spec.classes())},
        columns=_columns(record),
    )


def _joined(before: Profile, added: Profile, record: ProfileRecord) -> Profile:
    return Profile(
        rows_in=before.rows_in + added.rows_in,
        rows_kept=before.rows_kept + added.rows_kept,
        dropped=_sum(before.dropped, added.dropped),
        quarantined=_sum(before.quarantined, added.quarantined),
        masked=_masked(before.masked, added.masked),
        clipped=before.clipped + added.clipped,
        splits={name: before.splits.get(name, 0) + added.splits[name] for name in SPLITS},
        classes=_sum(before.classes, added.classes, keep_order=True),
        columns=_columns(record),
    )


def _masked(before: MaskingReport | None, added: MaskingReport | None) -> MaskingReport | None:
    return before + added if before is not None and added is not None else before or added


def _sum(one: Mapping[str, int], other: Mapping[str, int], *, keep_order: bool = False) -> dict[str, int]:
    names = dict.fromkeys((*one, *other))
    return {name: one.get(name, 0) + other.get(name, 0) for name in (names if keep_order else sorted(names))}


def _columns(record: ProfileRecord) -> tuple[ColumnProfile, ...]:
    return tuple(_column(column) for column in record.columns if column.role in ("feature", "image"))


def _column(column: ColumnSummary) -> ColumnProfile:
    numbers = column.numbers
    return ColumnProfile(
        name=column.name,
        dtype=column.dtype,
        count=column.count,
        missing=column.nulls,
        minimum=numbers.minimum if numbers else None,
        maximum=numbers.maximum if numbers else None,
        mean=numbers.mean if numbers else None,
        std=numbers.std if numbers else None,
    )
