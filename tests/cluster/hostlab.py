"""Small hosts made of Linux namespaces on one machine, for a real `ray up` over ssh.

Every host has its own network, process ids, mounts, name and IPC, a private home, /tmp, /run and /dev/shm, and an
sshd on port 22 of its own address; the operator's host has no sshd. Their bridge lives in a namespace of its own and
nothing has a route out, so a lab cannot reach this machine's network, nor one lab another. Each host has its own
process ids because `ray stop`, which `ray down` runs, ends every Ray process that it can see.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

NETWORK = "10.210.7"
OPERATOR = "op"
START_TIMEOUT_S = 20.0
PROGRAMS = ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "rsync", "/usr/sbin/sshd")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# PID 1 of a host: $1 its name, $2 its folder, then the paths that its private home and /tmp must not hide.
INIT = r"""#!/bin/bash
set -eu
name=$1 folder=$2; shift 2
mount --make-rprivate /
mount -t proc proc /proc
hostname "$name"
show() { mkdir -p "$2"; mount --bind "$1" "$2"; mount -o remount,bind,ro "$2"; }
for path in "$@"; do case $path in
  /tmp/*) show "$path" "$folder$path";;
  "$HOME"/*) show "$path" "$folder/home/${path#"$HOME"/}";;
esac; done
mount --rbind "$folder/home" "$HOME"
mount --rbind "$folder/tmp" /tmp
mount -t tmpfs -o size=1g,mode=1777 tmpfs /dev/shm
mount --bind "$folder/hosts" /etc/hosts
config="$folder/sshd_config"
mount -t tmpfs tmpfs /run; mkdir /run/sshd
if [ -f "$config" ]; then exec /usr/sbin/sshd -D -e -f "$config"; fi
exec sleep infinity
"""

SSHD = """Port 22
ListenAddress {address}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
PidFile none
UsePAM no
StrictModes no
UseDNS no
PrintMotd no
PrintLastLog no
MaxStartups 100
MaxSessions 100
"""


def why_no_hosts() -> str | None:
    """Return why no hosts can be made here, or None when they can."""
    if os.geteuid() != 0:
        return "namespaces with networks of their own need root"
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: iproute2, openssh-server, rsync)"
    probe = subprocess.run(
        ["unshare", "--net", "--pid", "--mount", "--uts", "--ipc", "--fork", "true"], capture_output=True, text=True
    )
    return f"unshare: {probe.stderr.strip()}" if probe.returncode else None


class Lab:
    """An operator's host and `names`, each started by `up` and gone after `down`.

    `profile` becomes the exports of each host's ~/.bashrc: what an administrator has put on the machines.
    """

    def __init__(self, folder: Path, names: tuple[str, ...], shown: tuple[Path, ...], profile: Mapping[str, str]):
        self.folder = folder
        self.key = folder / "id_ed25519"
        self._hosts = (OPERATOR, *names)
        self._shown = (*shown, folder)
        self._profile = profile
        self._tag = f"lm{zlib.crc32(str(folder).encode()):08x}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def address(self, host: str) -> str:
        return f"{NETWORK}.{10 + self._hosts.index(host)}"

    def up(self) -> None:
        """Make keys, folders and network, then start the hosts and wait for their sshd."""
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key)
        (self.folder / "init").write_text(INIT)
        (self.folder / "init").chmod(0o700)
        self._make_network()
        for host in self._hosts:
            self._furnish(host)
            self._start(host)
        for host in self._hosts:
            self._wait(host)

    def down(self) -> None:
        """End the hosts, then take their network away; every process of a host ends with its PID 1."""
        for process in self._processes.values():
            process.kill()  # unshare ignores SIGTERM
            process.wait()
        for name in (*self._hosts, "switch"):
            subprocess.run(["ip", "netns", "del", f"{self._tag}-{name}"], stderr=subprocess.DEVNULL, check=False)

    def run(self, host: str, *command: object, timeout_s: float, **environment: str) -> subprocess.CompletedProcess:
        """Run a command on a host, in its home, with this environment alone."""
        enter = ["nsenter", "--target", str(self.first_process(host)), "--mount", "--uts", "--ipc", "--net", "--pid"]
        home = os.environ["HOME"]
        clean = {"HOME": home, "TERM": "dumb", "LANG": "C.UTF-8", "PATH": SYSTEM_PATH, **environment}
        variables = [f"{name}={value}" for name, value in clean.items()]
        return subprocess.run(
            [*enter, f"--wd={home}", "env", "-i", *variables, *map(str, command)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s,
        )  # fmt: skip

    def first_process(self, host: str) -> int:
        """Return, as this machine counts, the process that is PID 1 of the host; IndexError before it starts."""
        outer = self._processes[host].pid
        return int(Path(f"/proc/{outer}/task/{outer}/children").read_text().split()[0])

    def _make_network(self) -> None:
        switch = f"{self._tag}-switch"
        _run("ip", "netns", "add", switch)
        _run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "bridge", "up")
        for host in self._hosts:
            own = f"{self._tag}-{host}"
            _run("ip", "netns", "add", own)
            _run("ip", "-n", own, "link", "set", "lo", "up")
            _run("ip", "-n", switch, *f"link add to-{host} type veth peer name eth0 netns {own}".split())
            _run("ip", "-n", switch, "link", "set", f"to-{host}", "master", "bridge", "up")
            _run("ip", "-n", own, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            _run("ip", "-n", own, "link", "set", "eth0", "up")

    def _furnish(self, host: str) -> None:
        """Write a host's home, /etc/hosts and sshd configuration."""
        folder = self.folder / host
        (folder / "home").mkdir(parents=True)
        (folder / "tmp").mkdir()
        (folder / "tmp").chmod(0o1777)
        names = "".join(f"{self.address(name)} {name}\n" for name in self._hosts)
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in self._profile.items())
        (folder / "home" / ".bashrc").write_text(exports)
        if host == OPERATOR:
            return
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / "host_key")
        shutil.copy(self.key.with_suffix(".pub"), folder / "authorized_keys")
        (folder / "sshd_config").write_text(SSHD.format(address=self.address(host), folder=folder))

    def _start(self, host: str) -> None:
        folder = self.folder / host
        with (folder / "console.log").open("wb") as console:
            self._processes[host] = subprocess.Popen(
                [
                    "ip", "netns", "exec", f"{self._tag}-{host}", "unshare", "--mount", "--pid", "--uts", "--ipc",
                    "--fork", "--kill-child=KILL", self.folder / "init", host, folder, *self._shown,
                ],
                stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True,
            )  # fmt: skip

    def _wait(self, host: str) -> None:
        program = "sleep" if host == OPERATOR else "sshd"
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end and self._processes[host].poll() is None:
            with contextlib.suppress(OSError, IndexError):
                if Path(f"/proc/{self.first_process(host)}/comm").read_text().strip() == program:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"Host {host} did not start: {(self.folder / host / 'console.log').read_text()}")


@contextlib.contextmanager
def lab(folder: Path, *names: str, shown: tuple[Path, ...], profile: Mapping[str, str]) -> Iterator[Lab]:
    """Yield running hosts that end with the block; this Python's own installation is shown to them as well."""
    hosts = Lab(folder, names, (*shown, Path(sys.prefix), Path(sys.base_prefix)), profile)
    try:
        hosts.up()
        yield hosts
    finally:
        hosts.down()


def _run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True)
