"""What tests counted and what they say of it, printed below the results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

Tally = Callable[[str, int], None]
PREFIX = "tally: "


@pytest.fixture
def tally(record_property: Callable[[str, object], None]) -> Tally:
    """Adds to a count of the whole run, such as of attacks that were refused."""

    def add(what: str, count: int) -> None:
        record_property(PREFIX + what, count)

    return add


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that the long suites of the Makefile use."""
    parser.addoption(
        "--counts", action="store_true", help="print below the results what tests that passed have printed"
    )


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the counts of all tests, whichever process ran them."""
    counts: Counter[str] = Counter()
    for report in terminalreporter.getreports(""):  # of setting up and tearing down
        if report.when == "teardown":
            for name, value in report.user_properties:
                if name.startswith(PREFIX) and value:
                    counts[name.removeprefix(PREFIX)] += int(value)
    said = [
        line
        for report in terminalreporter.getreports("passed")
        for line in (report.capstdout.splitlines() if config.getoption("counts") else ())
        if line.strip()
    ]
    if counts or said:
        terminalreporter.write_sep("=", "counts")
        for line in said:
            terminalreporter.write_line(line)
        for name, count in sorted(counts.items()):
            terminalreporter.write_line(f"{count:>9,} {name}")
