"""Datasets: from source rows to sealed, immutable versions, by Ray Data."""
