"""Sources: rows of any format and place as Arrow tables, each with a place that never changes. Knows no Ray.

`open_source` gives a `Source`; `Source.parts` divides it among workers; `Source.read` yields chunks of rows and
hands the rows that cannot be read to a policy. docs/sources.md lists formats, options and bad input.
"""

from __future__ import annotations

from lightmill.datasets.sources.combine import combine
from lightmill.datasets.sources.opening import formats, open_source
from lightmill.datasets.sources.port import BadRow, Chunk, OnBad, Part, Source, refuse, row_ids

__all__ = ["BadRow", "Chunk", "OnBad", "Part", "Source", "combine", "formats", "open_source", "refuse", "row_ids"]
