"""What the serving benchmarks stand on: both sides compute the same, requests are what each takes, gaps are counted."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks import serving, serving_peers
from benchmarks.peers import networks
from benchmarks.serving_cells import Case, Cell, table
from benchmarks.serving_chaos import Outcome, _table
from benchmarks.serving_life import Heard
from benchmarks.serving_models import NETWORKS
from benchmarks.serving_ours import MODELS
from benchmarks.serving_peers import PEERS, Server
from benchmarks.serving_wire import SIDE, TOKENS, WORKLOADS, Load, inference, plain, rows_of
from lightmill.serving.loading import served


def test_ours_and_the_peers_compute_the_same() -> None:
    torch.set_num_threads(1)
    answers = {name: served(*NETWORKS[name]()) for name in ("echo", "mlp", "encoder", "means")}
    for name, run in (
        ("mlp", networks.run_mlp(networks.mlp())),
        ("encoder", networks.run_encoder(networks.text_encoder())),
    ):
        logits = torch.from_numpy(run(rows_of(name)))
        found = answers[name].predict(rows_of(name)).arrays()["probabilities"]
        np.testing.assert_allclose(found, torch.softmax(logits, dim=-1).numpy(), atol=1e-5)
    rows = rows_of("means").astype(np.float32)
    np.testing.assert_allclose(answers["means"].predict(rows).arrays()["value"], networks.means(rows), atol=1e-5)
    assert answers["echo"].predict(np.ones((1, 1), dtype=np.float32)).arrays()["value"].tolist() == [1.0]
    assert (SIDE, TOKENS) == (networks.SIDE, networks.TOKENS)


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_side_is_sent_the_same_rows(workload: str) -> None:
    rows = rows_of(workload)
    by_hand, protocol = plain(workload), inference(workload, MODELS[workload])
    if workload == "means_raw":
        assert by_hand.body == rows.tobytes()
        assert protocol.body[int(protocol.headers["Inference-Header-Content-Length"]) :] == rows.tobytes()
        return
    (tensor,) = json.loads(protocol.body)["inputs"]
    np.testing.assert_array_equal(np.array(tensor["data"], dtype=rows.dtype).reshape(tensor["shape"]), rows)
    if workload != "echo":
        np.testing.assert_array_equal(np.array(json.loads(by_hand.body)["x"], dtype=rows.dtype), rows)
    assert protocol.path == f"/v2/models/{MODELS[workload]}/infer" and MODELS[workload] in NETWORKS


def test_cases_name_workloads_and_peers_that_there_are() -> None:
    cases = [case for group in serving.CASES.values() for case in group]
    assert {case.workload for case in cases} == set(WORKLOADS)
    assert {peer for case in cases for peer in case.against} <= set(PEERS)
    assert set(PEERS) - set(serving_peers.PACKAGES) == {serving_peers.CONTROL, serving_peers.RAY}
    for peer, missing in serving_peers.WITHOUT.items():
        server = Server(name=peer, url="http://x", root=None)
        assert [w for w in WORKLOADS if server.ask(w) is None] == list(missing)
    assert all("torch==2.13.0" in packages for packages in serving_peers.PACKAGES.values())


def test_a_table_has_a_row_for_each_server_and_a_dash_where_nothing_was_measured() -> None:
    load = Load(requests=100, seconds=2.0, p50_ms=1.0, p99_ms=2.0, failed=0)
    cells = [Cell(server="a", load=load, cpu_ms=0.25)] * 3
    cases = [Case(name="one", workload="mlp", clients=8), Case(name="two", workload="echo", clients=1)]
    shown = table([(cases[0], {"a": cells, "b": cells}), (cases[1], {"a": cells})]).splitlines()
    assert shown[0] == "| server | one c=8 | two c=1 |"
    assert shown[2:] == ["| a | 50 / 0.250 | 50 / 0.250 |", "| b | 50 / 0.250 | - |"]


def test_the_longest_gap_is_between_two_answers_of_any_clients() -> None:
    assert Heard().longest_gap_s == 0.0
    assert Heard(at_s=[3.0, 1.0, 1.5, 7.25]).longest_gap_s == 4.25


def test_the_table_of_faults_has_what_was_not_whole_again_as_none() -> None:
    one = Outcome(
        fault="node", load="http", answered=10, failed=0, stumbled=2, gap_s=0.5, recovered_s=1.25, whole_s=None
    )
    assert _table([one]).splitlines()[-1] == "| node | http | 10 | 0 | 2 | 0.5 | 1.2 | None |"
