"""One lab host as the head of a cluster that `ray up` starts from the project's own cluster.yaml."""

from __future__ import annotations

import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.cluster.hostlab import OPERATOR, SYSTEM_PATH, Lab, lab, why_no_hosts

PROJECT = Path(__file__).parents[2]
HEAD = "head"
SHORT_S = 120.0
UP_S = 420.0
# What the head's administrator has put into its ~/.bashrc; cluster.yaml says what each is for.
PROFILE = {
    "LIGHTMILL_VENV": sys.prefix,
    "RAY_START_OPTIONS": "--num-cpus=8 --memory=6000000000 --object-store-memory=300000000",
    # A machine that runs other tests at the same time needs more than 5 s to start HAProxy.
}
OPERATOR_ENVIRONMENT = {
    "PATH": f"{Path(sys.prefix) / 'bin'}:{SYSTEM_PATH}",
    "RAY_AUTH_MODE": "token",
    "RAY_UP_enable_autoscaler_v2": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster on lab hosts, worked from the operator's host in the project's folder."""

    hosts: Lab
    file: Path

    @property
    def head(self) -> str:
        return self.hosts.address(HEAD)

    def operate(self, *command: object, timeout_s: float = SHORT_S) -> str:
        """Run a command as the operator; return its standard output, and print the end of it."""
        began = time.monotonic()
        done = self.hosts.run(OPERATOR, "env", "-C", PROJECT, *command, timeout_s=timeout_s, **OPERATOR_ENVIRONMENT)
        tail = "".join(f"    {line[:160]}\n" for line in done.stdout.strip().splitlines()[-4:])
        print(f"\n  {time.monotonic() - began:.1f} s: {' '.join(map(str, command))[:110]}\n{tail}", end="")
        if done.returncode:
            output = f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
            raise AssertionError(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{output}")
        return done.stdout

    def on_head(self, command: str) -> str:
        """Run a command on the head, as an administrator who logs in."""
        options = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
        return self.operate(
            "ssh", *options, "-i", self.hosts.key, f"root@{self.head}", f"bash -ic {shlex.quote(command)}"
        )

    def exec(self, command: str) -> str:
        """Run a command on the head through `ray exec`, whose own messages stand around the output."""
        return self.operate("ray", "exec", self.file, command)

    def up(self) -> str:
        return self.operate("ray", "up", "-y", self.file, timeout_s=UP_S)

    def down(self) -> str:
        return self.operate("ray", "down", "-y", self.file)


def filled_in(hosts: Lab) -> Path:
    """Write the project's cluster.yaml with its four values filled in."""
    config = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
    config["provider"].update(head_ip=hosts.address(HEAD), worker_ips=[])
    config["auth"].update(ssh_user="root", ssh_private_key=str(hosts.key))
    file = hosts.folder / "cluster.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return file


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head that `ray up` has brought up; it ends with the module, power cut included."""
    reason = why_no_hosts()
    if reason:
        print(f"\nno hosts can be made here: {reason}")
        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="lab-", dir="/tmp"))
    try:
        with lab(folder, HEAD, shown=(PROJECT,), profile=PROFILE) as hosts:
            made = Cluster(hosts=hosts, file=filled_in(hosts))
            made.operate("ray", "get-auth-token", "--generate")
            made.operate("sh", "-c", "chmod 600 ~/.ray/auth_token")
            made.up()
            yield made
    finally:
        shutil.rmtree(folder)
