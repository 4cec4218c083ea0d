"""A dataset version as its manifest and profile describe it; no row is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from lightmill.errors import RequestError
from lightmill.records.assets import DatasetCard, Manifest
from lightmill.records.profile import PROFILE_FILE, ProfileRecord
from lightmill.records.quality import ColumnRule
from lightmill.records.references import VersionId
from lightmill.registry import OpenVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A version: who it is, its manifest and card, and its profile if it was made with one."""

    id: VersionId
    manifest: Manifest
    card: DatasetCard
    profile: ProfileRecord | None

    @property
    def spec(self) -> dict[str, Any]:
        """Return the specification that it was made from, as JSON; empty where none was recorded."""
        return self.manifest.provenance.spec

    def rules(self) -> dict[str, ColumnRule]:
        """Return the declared columns by name; none where no specification was recorded or it is of another form."""
        found: dict[str, ColumnRule] = {}
        declared = self.spec.get("columns")
        for entry in declared if isinstance(declared, list) else ():
            try:
                rule = ColumnRule.model_validate(entry)
            except ValidationError:
                return {}
            found |= dict.fromkeys(rule.names(), rule)
        return found

    def label_is_personal(self) -> bool:
        """Return whether the label column has tags, so that its classes are not shown to others."""
        return any(rule.role == "label" and bool(rule.tags) for rule in self.rules().values())


def described(version: OpenVersion) -> Described:
    """Return what is known of a dataset version.

    Raises:
        RequestError: It is no dataset.
        IntegrityError: Its profile is not what was written.
    """
    card = version.manifest.dataset
    if card is None:
        raise RequestError(f"{version.id} is no dataset.")
    profile = None
    if any(entry.path == PROFILE_FILE for entry in version.manifest.files):
        profile = ProfileRecord.model_validate_json(version.read_file(PROFILE_FILE))
    return Described(id=version.id, manifest=version.manifest, card=card, profile=profile)
