"""The columns of every sealed dataset file, beside the source columns that were kept."""

from __future__ import annotations

ROW_ID = "row_id"
LABEL = "label"
FEATURES = "features"
