"""Servers over TCP: many workers at once, a slow one among them, errors, and servers that are gone."""

from __future__ import annotations

import time
from threading import Lock, Thread

import numpy as np
import pytest

from lightmill.errors import RequestError, UnavailableError
from lightmill.training.servers.shard import ServerSetting
from lightmill.training.servers.sockets import Listening, SocketServers
from tests.teams import spec_of
from tests.unit.training.servers.test_shard import CASE, VALUES, gradients

WORKERS, STEPS = 4, 30


def listening(**more: object) -> Listening:
    setting = ServerSetting.model_validate(
        {"spec": spec_of(CASE), "workers": WORKERS, "steps": STEPS, "epoch_steps": STEPS, "consistency": "ssp"} | more
    )
    return Listening(setting, [{name: value} for name, value in VALUES.items()])


def test_no_thread_computes_a_step_further_ahead_than_the_bound_while_one_is_slow() -> None:
    staleness = 2
    servers = listening(staleness=staleness)
    lock, done, ahead = Lock(), [0] * WORKERS, [0]

    def work(worker: int) -> None:
        links = SocketServers(servers.address)
        for _ in range(STEPS):
            with lock:
                ahead.append(done[worker] - min(done))  # what this step's worker is ahead while it computes
            time.sleep(0.003 if worker == 0 else 0)
            with lock:
                done[worker] += 1
            links.ask("exchange", [(worker, (one,)) for one in gradients(0.01)])
        links.close()

    threads = [Thread(target=work, args=(number,)) for number in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    links = SocketServers(servers.address, servers)
    counts = links.ask("take_counts")
    assert max(ahead) == staleness == max(one.ahead_most for one in counts)
    assert [one.updates for one in counts] == [WORKERS * STEPS] * 2
    for place, (array,) in enumerate(links.ask("parameters")):
        moved = 0.1 * 0.01 * WORKERS * STEPS
        np.testing.assert_allclose(array, list(VALUES.values())[place] - moved, rtol=1e-4, atol=1e-5)
    links.close()


def test_an_error_of_a_server_comes_to_the_worker_that_caused_it() -> None:
    servers = listening()
    links = SocketServers(servers.address, servers)
    with pytest.raises(RequestError, match="2 gradients for 1 parameters"):
        links.ask("exchange", [(0, gradients(1.0)), (0, gradients(1.0))])
    links.close()


def test_servers_that_are_gone_are_unavailable() -> None:
    servers = listening()
    links = SocketServers(servers.address, servers)
    for link in links._links:
        link.close()
    with pytest.raises(UnavailableError, match="is gone"):
        links.ask("names")
    servers.close()
    with pytest.raises((ConnectionError, OSError)):
        SocketServers(servers.address)


def test_a_stranger_without_the_key_is_turned_away() -> None:
    servers = listening()
    import multiprocessing
    from multiprocessing.connection import Client

    with pytest.raises(multiprocessing.AuthenticationError):
        Client(("127.0.0.1", servers.address.ports[0]), authkey=b"guessed")
    links = SocketServers(servers.address, servers)  # the others are served as before
    assert links.ask("names") == [("a.weight",), ("b",)]
    links.close()
