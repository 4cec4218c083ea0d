"""The two cluster files, through Ray's own checks and ours; nothing is started."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click import ClickException
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

PROJECT = Path(__file__).parents[2]
LOCAL = PROJECT / "cluster.yaml"
AWS = PROJECT / "deploy" / "cluster-aws.yaml"
FILES = pytest.mark.parametrize("path", [LOCAL, AWS], ids=["local", "aws"])
START = ("head_start_ray_commands", "worker_start_ray_commands")


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def check(config: dict[str, Any]) -> dict[str, Any]:
    """Prepare and validate a cluster file as `ray up` does; return what Ray makes of it."""
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


@FILES
def test_the_file_validates(path: Path) -> None:
    prepared = check(load(path))
    for key in START:
        assert prepared[key] == load(path)[key]


@FILES
def test_start_commands_end_nobody_elses_ray(path: Path) -> None:
    commands = [command for key in START for command in load(path)[key]]
    assert not any("ray stop" in command for command in commands)
    assert any("ray start --head" in command and "--autoscaling-config" in command for command in commands)


@FILES
def test_ray_asks_for_the_token_on_every_node(path: Path) -> None:
    config = load(path)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert any("export RAY_AUTH_MODE=token" in command for command in config["setup_commands"])
    assert all("lightmill environment" in command for key in START for command in config[key])


@FILES
def test_what_is_copied_exists(path: Path) -> None:
    sources = [source for source in load(path)["file_mounts"].values() if not source.startswith("~")]
    assert [source for source in sources if not (PROJECT / source).exists()] == []


def test_both_files_start_ray_alike() -> None:
    local, aws = load(LOCAL), load(AWS)
    for key in (*START, "file_mounts", "rsync_exclude"):
        assert local[key] == aws[key]


def test_the_local_file_leaves_out_what_its_provider_refuses() -> None:
    assert {"available_node_types", "head_node", "worker_nodes"}.isdisjoint(load(LOCAL))


@pytest.mark.parametrize("key", ["available_node_types", "head_node", "worker_nodes"])
def test_the_local_provider_refuses_node_types(key: str) -> None:
    with pytest.raises((ClickException, SystemExit, ValueError)):
        check({**load(LOCAL), key: {"gpu": {"resources": {}, "node_config": {}}}})


def test_gpu_nodes_scale_from_zero_and_the_head_has_no_gpu() -> None:
    types = load(AWS)["available_node_types"]
    assert "GPU" not in types["head"]["resources"]
    assert types["gpu"]["min_workers"] == 0 < types["gpu"]["max_workers"]
    assert types["gpu"]["resources"]["GPU"] == 1
    assert types["gpu"]["labels"]["pool"] == "gpu"


TYPOS: dict[str, Callable[[dict[str, Any]], object]] = {
    "an unknown key": lambda c: c.update(maxworkers=3),
    "a number as text": lambda c: c.update(max_workers="3"),
    "no provider": lambda c: c.pop("provider"),
    "an unknown provider": lambda c: c["provider"].update(type="awz"),
    "an unknown key of a node type": lambda c: c["available_node_types"]["gpu"].update(minworkers=1),
    "a negative resource": lambda c: c["available_node_types"]["gpu"]["resources"].update(GPU=-1),
    "half a GPU": lambda c: c["available_node_types"]["gpu"]["resources"].update(GPU=0.5),
    "more nodes at least than at most": lambda c: c["available_node_types"]["gpu"].update(min_workers=9),
    "a head of no type": lambda c: c.update(head_node_type="haed"),
}


@pytest.mark.parametrize("typo", TYPOS)
def test_typos_are_refused(typo: str) -> None:
    config = load(AWS)
    TYPOS[typo](config)
    with pytest.raises((ValidationError, ClickException, ValueError, KeyError, NotImplementedError)):
        check(config)
