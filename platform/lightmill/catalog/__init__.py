"""The metadata database: tables, migrations and queries; SQLite by default, PostgreSQL by URL.

The object store is authoritative for bytes, versions and aliases, so the catalog's index of them can be built
again. What lives only here is desired state, jobs, keys, metrics history and the high-water marks.
"""

from lightmill.catalog.catalog import Catalog

__all__ = ["Catalog"]
