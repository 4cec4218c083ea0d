"""Masking of log records, before a handler writes them."""

from __future__ import annotations

import logging
import traceback

from lightmill.masking.masker import Masker

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class MaskingFilter(logging.Filter):
    """Masks messages with their arguments, exceptions, stacks and extra fields of log records.

    Add it to handlers: a filter of a logger does not see the records of the loggers below it. The record that
    leaves it has its arguments merged into the message, and its exception as text.
    """

    def __init__(self, masker: Masker) -> None:
        super().__init__()
        self._masker = masker

    def filter(self, record: logging.LogRecord) -> bool:
        """Mask a record in place, and let it through."""
        record.msg = self._masker.text(_message(record))
        record.args = None
        if record.exc_info and record.exc_info[0] is not None and not record.exc_text:
            record.exc_text = "".join(traceback.format_exception(*record.exc_info)).rstrip("\n")
        record.exc_info = None
        record.exc_text = self._masker.text(record.exc_text) if record.exc_text else None
        record.stack_info = self._masker.text(record.stack_info) if record.stack_info else None
        for name, value in vars(record).items():
            if name not in _STANDARD:
                setattr(record, name, self._extra(value))
        return True

    def _extra(self, value: object) -> object:
        """Return an extra field: numbers as they are unless found out, anything else as masked text."""
        if value is None or isinstance(value, bool):
            return value
        shown = str(value)
        masked = self._masker.text(shown)
        return value if masked == shown and isinstance(value, int | float) else masked


def _message(record: logging.LogRecord) -> str:
    """Return the message with its arguments; where they do not fit the format, both one after the other."""
    try:
        return record.getMessage()
    except (TypeError, ValueError, KeyError):
        return f"{record.msg} {record.args!r}"
