"""The care of a store: check, collection, repair, rebuilding, backup and restoration.

Rules of this package:

* A verb a module. What to do is decided by pure functions; doing it is a few lines.
* Nothing needs the platform to run, and nothing but the keyed check and the catalog's rows needs a secret.
* Whatever is deleted can be put back for a week, and nothing is deleted while a record cannot be read.
"""

from __future__ import annotations

from lightmill.registry.care.backup import backup
from lightmill.registry.care.check import Options as CheckOptions
from lightmill.registry.care.check import check
from lightmill.registry.care.gc import Collector
from lightmill.registry.care.rebuild import rebuild
from lightmill.registry.care.repair import repair
from lightmill.registry.care.restore import restore
from lightmill.registry.care.reuse import verify_reused
from lightmill.registry.care.rollback import rolled_back

__all__ = [
    "CheckOptions",
    "Collector",
    "backup",
    "check",
    "rebuild",
    "repair",
    "restore",
    "rolled_back",
    "verify_reused",
]
