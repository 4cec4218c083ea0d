"""The plan of a run on a sealed dataset: what it says, what it refuses, and what runs are refused by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lightmill.errors import RequestError
from lightmill.records.jobs import Progress
from lightmill.records.signature import Architecture
from lightmill.training.placement import Cluster, Node, place
from lightmill.training.planning.plan import Wishes, plan_training
from lightmill.training.planning.refusing import refuse_too_large
from lightmill.training.planning.rooms import PROCESS_BYTES, size_text
from lightmill.training.planning.subject import Subject
from lightmill.training.rows import Rows
from tests.unit.training.sealed_rows import Sealed, seal_rows

MB = 1_000_000


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Sealed:
    return seal_rows(tmp_path_factory.mktemp("planned"))


def subject(sealed: Sealed, hidden: int = 8, **more: Any) -> Subject:
    architecture = Architecture(name="mlp", arguments={"hidden": [hidden, hidden]})
    spec = sealed.config(Path("/"), **({"workers": 2, "architecture": architecture, "optimizer": "adamw"} | more)).spec
    objective = type(sealed.objective())(sealed.card, spec.architecture)
    rows = Rows(objective, sealed.card)
    return Subject(spec=spec, dataset=sealed.version, location=sealed.location, objective=objective, rows=rows)


def cluster(memory_bytes: int | None) -> Cluster:
    return Cluster(nodes=(Node(cpus=2.0, memory_bytes=memory_bytes, name="here"),))


def quiet(_: Progress) -> None:
    pass


def test_a_plan_says_what_a_run_takes(sealed: Sealed) -> None:
    said: list[Progress] = []
    found = plan_training(subject(sealed), cluster(None), Wishes(probe_bytes=100 * MB), said.append)
    assert (found.dataset, found.workers, found.steps_per_epoch, found.steps) == ("d@1", 2, 5, 10)
    assert found.parameters == found.trained_parameters == 3 * 8 + 8 + 8 * 8 + 8 + 8 * 4 + 4
    ours = next(one for one in found.strategies if one.chosen)
    assert (ours.strategy, ours.layout, ours.fits) == ("ddp", "data 2", None)
    assert ours.parameter_bytes == ours.gradient_bytes == ours.sent_bytes == 4 * found.parameters
    parts = (ours.parameter_bytes, ours.gradient_bytes, ours.optimizer_bytes, ours.activation_bytes)
    assert ours.total_bytes == sum(parts) + ours.other_bytes + ours.rows_bytes
    assert found.probe_steps >= 1 and ours.step_s is not None and ours.run_s == pytest.approx(ours.step_s * 10)
    assert found.placed and said and found.nodes[0].name == "here"


def test_whether_nodes_hold_the_workers(sealed: Sealed) -> None:
    large = subject(sealed, hidden=1024)
    room = PROCESS_BYTES + 15 * MB
    for memory, holds in ((8_000 * MB, True), (2 * room + 100 * MB, True), (2 * room, False)):
        found = plan_training(large, cluster(memory), Wishes(strategies=("ddp",)), quiet)
        assert [one.fits for one in found.strategies] == [holds], memory
        assert bool(found.strategies[0].why_not) is not holds
        assert found.probe_steps == 0 and found.strategies[0].step_s is None


def test_a_plan_of_what_has_no_place_says_why(sealed: Sealed) -> None:
    found = plan_training(subject(sealed, workers=4), cluster(None), Wishes(strategies=("ddp",)), quiet)
    assert not found.placed and "4 workers x 1 CPU need 4 CPUs" in found.placement
    with pytest.raises(RequestError, match="no strategy 'magic'"):
        plan_training(subject(sealed), cluster(None), Wishes(strategies=("magic",)), quiet)


def test_time_is_not_estimated_where_a_step_does_not_fit_this_machine(sealed: Sealed) -> None:
    found = plan_training(subject(sealed), cluster(None), Wishes(strategies=("ddp",), probe_bytes=100), quiet)
    assert found.probe_steps == 0 and "Time is not estimated" in found.notes[0]


def test_a_run_that_no_node_can_hold_is_refused_and_others_are_not(sealed: Sealed) -> None:
    run = subject(sealed, hidden=1024)  # four times 4.2 MB, and buckets
    placement = place(run.spec, cluster(None))
    with pytest.raises(RequestError) as caught:
        refuse_too_large(run, placement, cluster(10 * MB))
    for part in ("no node has more than 10.0 MB", "`batch_size` (4)", "`accumulate` (1)", "now ddp", "lightmill plan"):
        assert part in caught.value.message
    refuse_too_large(run, placement, cluster(25 * MB))
    refuse_too_large(run, placement, cluster(None))
    mixed = Cluster(nodes=(Node(cpus=1.0, memory_bytes=10 * MB), Node(cpus=1.0)))
    refuse_too_large(run, placement, mixed)  # one of the nodes may hold it


def test_a_batch_that_does_not_divide_is_refused_with_the_specification(sealed: Sealed) -> None:
    with pytest.raises(ValidationError, match="batch_size 5 does not divide by workers 2"):
        subject(sealed, batch_size=5)


@pytest.mark.parametrize(("size", "text"), [(9, "9 B"), (1500, "1.5 kB"), (2e9, "2.0 GB"), (3e12, "3.0 TB")])
def test_sizes_for_people(size: float, text: str) -> None:
    assert size_text(size) == text
