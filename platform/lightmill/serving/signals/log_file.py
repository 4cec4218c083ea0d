"""The file of an access log, which rolls over at a size: a log must not fill a disk, whatever the traffic."""

from __future__ import annotations

import os
from pathlib import Path

ROLL_BYTES = 64 << 20
KEPT = 3


class LogFile:
    """Appends to a 0600 file. One that has grown to `roll_bytes` becomes `.1`, that `.2`, and the oldest goes."""

    def __init__(self, path: Path, *, roll_bytes: int = ROLL_BYTES, kept: int = KEPT) -> None:
        """Write to `path` from the first line on; its folder is made then."""
        self.path = path
        self._roll_bytes = roll_bytes
        self._kept = kept

    def __call__(self, data: bytes) -> None:
        """Append some lines.

        Raises:
            OSError: The file cannot be written.
        """
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            grown = os.fstat(file.fileno()).st_size >= self._roll_bytes
        if grown:
            self._roll()

    def _roll(self) -> None:
        for number in range(self._kept - 1, 0, -1):
            older = self._numbered(number)
            if older.exists():
                older.replace(self._numbered(number + 1))
        self.path.replace(self._numbered(1))

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


def ray_log_folder() -> Path | None:
    """Return a folder of ours among the logs of this node's Ray session; None outside of Ray.

    Ray sends every line on a worker's standard error to the driver, which costs more than the request that the line is
    about; in this folder nobody looks but people.
    """
    from ray._private import worker

    node = worker._global_node
    return None if node is None else Path(node.get_logs_dir_path()) / "lightmill"
