from __future__ import annotations

import io
import logging

import pytest

from lightmill.masking import Masker, MaskingFilter
from tests.unit.masking.examples import REDACT_ALL


@pytest.fixture
def written():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s %(user)s", defaults={"user": "-"}))
    handler.addFilter(MaskingFilter(Masker(REDACT_ALL)))
    logger = logging.getLogger("lightmill.test_masking.child")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield logger, stream
    logger.removeHandler(handler)


def test_messages_arguments_and_extra_fields_are_masked(written) -> None:
    logger, stream = written
    logger.info("user a@b.de from %s has %d", "203.0.113.7", 3)
    logger.info("%(mail)s", {"mail": "a@b.de"}, extra={"user": "a@b.de"})
    logger.warning({"mail": "a@b.de"}, extra={"user": 7})
    logger.info("split %s@%s", "jane", "example.com", extra={"user": None})
    assert stream.getvalue().splitlines() == [
        "INFO user [email] from [ipv4] has 3 -",
        "INFO [email] [email]",
        "WARNING {'mail': '[email]'} 7",
        "INFO split [email] None",
    ]


def test_exceptions_and_stacks_are_masked(written) -> None:
    logger, stream = written
    try:
        raise ValueError("no user a@b.de")
    except ValueError:
        logger.exception("failed", stack_info=True)
    assert "ValueError: no user [email]" in stream.getvalue() and "Traceback" in stream.getvalue()
    assert "a@b.de" not in stream.getvalue().replace('ValueError("no user a@b.de")', "")


def test_arguments_that_do_not_fit_are_masked_all_the_same(written) -> None:
    logger, stream = written
    logger.info("only %s", "a@b.de", "c@d.fr")
    assert stream.getvalue() == "INFO only %s ('[email]', '[email]') -\n"
