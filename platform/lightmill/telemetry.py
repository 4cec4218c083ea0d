"""Logs: one line each, to standard error, so that standard output stays for results."""

from __future__ import annotations

import logging
from typing import TextIO

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def configure_logging(level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send the records of `lightmill` loggers to standard error, or to `stream`; call it once, at an entry point."""
    logger = logging.getLogger("lightmill")
    if not logger.handlers:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


def filter_logs(filter: logging.Filter) -> None:
    """Pass what `configure_logging` sends through a filter from now on, in place of an earlier one."""
    for handler in logging.getLogger("lightmill").handlers:
        for earlier in list(handler.filters):
            handler.removeFilter(earlier)
        handler.addFilter(filter)
