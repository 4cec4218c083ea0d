"""Tuning: many runs over a space of specifications, by Ray Tune."""
