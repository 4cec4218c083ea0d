"""Arrow's compute functions. Arrow makes them when it is imported, so a type checker knows none of their names."""

from __future__ import annotations

from typing import Any

import pyarrow.compute

pc: Any = pyarrow.compute
