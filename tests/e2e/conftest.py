"""One platform for all end-to-end tests: brought up by the demo, ended at the end of the session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

import lightmill
from lightmill.sdk import Client
from tests.platforms import Command, TestPlatform, temporary_platform


@dataclass(frozen=True)
class Demo:
    platform: TestPlatform
    command: Command
    before: frozenset[str]


def listening() -> frozenset[str]:
    """Every TCP socket that listens, as address:port in hexadecimal, from the kernel's tables."""
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(table) as file:
            for line in file.readlines()[1:]:
                fields = line.split()
                if fields[3] == "0A":
                    found.add(fields[1])
    return frozenset(found)


@pytest.fixture(scope="session")
def demo() -> Iterator[Demo]:
    """The platform after `lightmill demo examples/digits`, which is what `make demo` runs."""
    with temporary_platform() as platform:
        before = listening()
        yield Demo(platform, platform.lightmill("demo", "examples/digits"), before)


@pytest.fixture(scope="session")
def platform(demo: Demo) -> TestPlatform:
    return demo.platform


@pytest.fixture(scope="session")
def client(platform: TestPlatform) -> Iterator[Client]:
    with lightmill.connect(platform.url, platform.key) as connected:
        yield connected
