"""How two versions of a dataset differ, from their manifests and profiles alone: no row is read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from typing import Any, Literal

from lightmill.datasets.described import Described
from lightmill.datasets.drift import Distance, between_categories, between_histograms
from lightmill.records.assets import SourceFile
from lightmill.records.dataset_versions import ColumnShift, CountChange, DatasetDiff, FieldChange, SourceChange
from lightmill.records.profile import ColumnSummary, NumberSummary

SHOWN_TEXT = 200
_ELSEWHERE = ("columns", "name")


def diff(old: Described, new: Described) -> DatasetDiff:
    """Return how `new` differs from `old`."""
    missing = [str(version.id) for version in (old, new) if version.profile is None]
    notes = [f"{name} has no profile, so that distributions cannot be compared." for name in missing]
    if bool(old.rules()) != bool(new.rules()):
        notes.append("Only one of them records how its columns were declared; what their profiles say is compared.")
    return DatasetDiff(
        old=old.id,
        new=new.id,
        columns=tuple(_columns(old, new)),
        counts=tuple(sorted(_counts(old, new), key=lambda change: (-change.share, change.group, change.name))),
        shifts=tuple(sorted(_shifts(old, new), key=lambda shift: (-shift.size, shift.name))),
        sources=tuple(_sources(old.card.sources, new.card.sources)),
        preparation=tuple(_preparation(old, new)),
        notes=tuple(notes),
    )


# -- schema -------------------------------------------------------------------


def _columns(old: Described, new: Described) -> Iterator[FieldChange]:
    declared = bool(old.rules()) and bool(new.rules())
    before, after = _declared(old, declared), _declared(new, declared)
    for name in [*after, *(name for name in before if name not in after)]:
        if name not in before or name not in after:
            yield FieldChange(what=name, field="column", old=_brief(before.get(name)), new=_brief(after.get(name)))
            continue
        for field, first, second in _changes(before[name], after[name]):
            yield FieldChange(what=name, field=field, old=first, new=second)
    for field in ("name", "datatype", "shape"):
        first, second = getattr(old.card.features, field), getattr(new.card.features, field)
        if first != second:
            yield FieldChange(what="features", field=field, old=_text(first), new=_text(second))
    if old.card.classes != new.card.classes:
        yield FieldChange(what="label", field="classes", old=_text(old.card.classes), new=_text(new.card.classes))
    both = before.keys() & after.keys()
    for field, first, second in _changes(_kept(old, both), _kept(new, both)):
        yield FieldChange(what=field, field="kept in the version", old=first, new=second)


def _declared(version: Described, declared: bool) -> dict[str, dict[str, Any]]:
    """Return the fields of each column: as declared, else by the profile, else by name alone."""
    if declared:
        return {
            name: {"dtype": rule.dtype, **rule.model_dump(mode="json", exclude={"name"}, exclude_defaults=True)}
            | {"role": rule.role}
            for name, rule in version.rules().items()
        }
    if version.profile:
        return {c.name: {"dtype": c.dtype, "role": c.role, "tags": list(c.tags)} for c in version.profile.columns}
    return {name: {} for name in version.card.source_columns}


def _kept(version: Described, names: Set[str]) -> dict[str, str]:
    return {name: "yes" for name in version.card.source_columns if name in names}


def _brief(column: dict[str, Any] | None) -> str | None:
    return None if column is None else ", ".join(str(column[key]) for key in ("dtype", "role") if key in column)


# -- counts -------------------------------------------------------------------


def _counts(old: Described, new: Described) -> Iterator[CountChange]:
    before, after = _counted(old), _counted(new)
    for key in {**before, **after}:
        first, second = before.get(key, 0), after.get(key, 0)
        if first != second:
            yield CountChange(group=key[0], name=key[1], old=first, new=second)


def _counted(version: Described) -> dict[tuple[str, str], int]:
    found = version.card.profile
    counts = {("rows", "read"): found.rows_in, ("rows", "kept"): found.rows_kept, ("rows", "clipped"): found.clipped}
    groups = {
        "split": found.splits,
        "class": found.classes,
        "dropped": found.dropped,
        "quarantined": found.quarantined,
    }
    return counts | {(group, name): count for group, part in groups.items() for name, count in part.items()}


# -- distributions ------------------------------------------------------------


def _shifts(old: Described, new: Described) -> Iterator[ColumnShift]:
    if old.profile is None or new.profile is None:
        return
    after = {column.name: column for column in new.profile.columns}
    for column in old.profile.columns:
        if column.name in after:
            yield _shift(column, after[column.name])


def _shift(old: ColumnSummary, new: ColumnSummary) -> ColumnShift:
    """Compare what both summaries have: numbers by histogram, values by their counts, texts by their lengths."""
    missing = {"name": old.name, "old_missing": _missing(old), "new_missing": _missing(new)}
    if old.hidden or new.hidden:
        return ColumnShift(**missing, kind="counts", method="a column with tags: its missing values alone")
    if old.numbers and new.numbers:
        return _of_numbers("numbers", missing, old.numbers, new.numbers)
    found = between_categories(old, new)
    if found:
        return ColumnShift(
            **missing, kind="categories", **_measures(found), method=f"counts of values in {found.bins} categories"
        )
    if old.lengths and new.lengths:
        return _of_numbers("lengths", missing, old.lengths, new.lengths)
    return ColumnShift(**missing, kind="counts", method="its missing values alone: the profiles count no values of it")


def _of_numbers(
    kind: Literal["numbers", "lengths"], missing: Mapping[str, Any], old: NumberSummary, new: NumberSummary
) -> ColumnShift:
    means: dict[str, Any] = {"old_mean": old.mean, "new_mean": new.mean}
    if old.mean is not None and new.mean is not None and old.std:
        means["mean_shift"] = (new.mean - old.mean) / old.std
    if not (old.histogram and new.histogram):
        return ColumnShift(**missing, kind=kind, **means, method="means of all values")
    found = between_histograms(old.histogram, new.histogram)
    sampled = f"{old.histogram.sampled} and {new.histogram.sampled}"
    method = f"histograms of {sampled} sampled {kind} in {found.bins} bins; means of all"
    return ColumnShift(**missing, kind=kind, **means, **_measures(found), method=method)


def _measures(found: Distance) -> dict[str, Any]:
    return {"psi": found.psi, "js": found.js, "bins": found.bins, "by_chance": found.by_chance}


def _missing(column: ColumnSummary) -> float:
    rows = column.count + column.nulls
    return column.nulls / rows if rows else 0.0


# -- sources and preparation --------------------------------------------------


def _sources(old: tuple[SourceFile, ...], new: tuple[SourceFile, ...]) -> Iterator[SourceChange]:
    before, after = _by_name(old), _by_name(new)
    for key in {**before, **after}:
        first, second = before.get(key), after.get(key)
        if first == second:
            continue
        change = "added" if first is None else "removed" if second is None else "changed"
        yield SourceChange(name=key[0], change=change, old=first, new=second)


def _by_name(files: tuple[SourceFile, ...]) -> dict[tuple[str, int], SourceFile]:
    """Return files by name; a name that comes again has the next number."""
    found: dict[tuple[str, int], SourceFile] = {}
    times: dict[str, int] = {}
    for file in files:
        times[file.name] = times.get(file.name, -1) + 1
        found[file.name, times[file.name]] = file
    return found


def _preparation(old: Described, new: Described) -> Iterator[FieldChange]:
    specs = [{key: value for key, value in one.spec.items() if key not in _ELSEWHERE} for one in (old, new)]
    for field, first, second in _changes(specs[0], specs[1]):
        what, _, rest = field.partition(".")
        yield FieldChange(what=what, field=rest or what, old=first, new=second)
    for field, first, second in _changes(_fitted(old), _fitted(new)):
        yield FieldChange(what="fitted", field=field, old=first, new=second)
    for field, first, second in _changes(_used(old), _used(new)):
        yield FieldChange(what="made with", field=field, old=first, new=second)


def _fitted(version: Described) -> dict[str, Any]:
    card = version.card
    steps = card.preparation.fitted.steps if card.preparation else card.preprocessing.steps
    others = {"tokens": card.tokens, "training": card.training}
    return {
        "steps": [step.model_dump(mode="json") for step in steps],
        **{name: part.model_dump(mode="json") for name, part in others.items() if part},
    }


def _used(version: Described) -> dict[str, Any]:
    origin = version.manifest.provenance.listed()
    return {"code": origin.code.model_dump(mode="json"), "packages": origin.packages}


def _changes(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, str | None, str | None]]:
    """Yield (path, old, new) of what differs in two JSON values, as text; lists are compared as a whole.

    Lists of objects of one length, such as steps, are compared one by one.
    """
    if old == new:
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in {**old, **new}:
            yield from _changes(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif _objects(old) and _objects(new) and len(old) == len(new):
        for number, (first, second) in enumerate(zip(old, new, strict=True), start=1):
            yield from _changes(first, second, f"{path}.{number}" if path else str(number))
    else:
        yield path, _text(old), _text(new)


def _objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _text(value: Any) -> str | None:
    """Return a value as short text; None for nothing."""
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_TEXT else f"{text[: SHOWN_TEXT - 4]} ..."
