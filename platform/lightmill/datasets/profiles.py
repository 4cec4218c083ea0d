"""The profile that a dataset version holds."""

from __future__ import annotations

from lightmill.errors import NotFoundError
from lightmill.records.profile import PROFILE_FILE, ProfileRecord
from lightmill.registry import OpenVersion


def read_profile(version: OpenVersion) -> ProfileRecord:
    """Return the profile of a version.

    Raises:
        NotFoundError: It was made without one.
        IntegrityError: Its bytes are not what was written.
    """
    if not any(entry.path == PROFILE_FILE for entry in version.manifest.files):
        raise NotFoundError(
            f"{version.id} has no profile; it was made by an older Lightmill. Ingest it again to get one."
        )
    return ProfileRecord.model_validate_json(version.read_file(PROFILE_FILE))
