"""The profile of a dataset version, as notebooks show it."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from pathlib import Path

from lightmill.records.profile import ProfileRecord

FRAME_HEIGHT = 640


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfileView:
    """A profile: its numbers in `record`, and the same as a page of HTML that needs nothing else.

    A notebook shows the page, in a frame of its own that runs no script and asks for nothing.
    """

    record: ProfileRecord
    page: str = field(repr=False)

    def save(self, path: str | Path) -> Path:
        """Write the page to a file and return its path."""
        target = Path(path)
        target.write_text(self.page, encoding="utf-8")
        return target

    def _repr_html_(self) -> str:
        """Return the frame that a notebook shows; its styles and the notebook's do not meet."""
        return (
            f'<iframe sandbox="" title="Profile of {html.escape(self.record.name)}" srcdoc="{html.escape(self.page)}" '
            f'style="width:100%;height:{FRAME_HEIGHT}px;border:0"></iframe>'
        )
