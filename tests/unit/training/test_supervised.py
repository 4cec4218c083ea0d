"""Losses of labels and numbers against torch, weights of classes, what is refused, and more metrics."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch import nn
from torch.nn import functional

from lightmill.errors import JobError, RequestError
from lightmill.models.preparation.tokens import fixed_list
from lightmill.records.assets import DatasetCard
from lightmill.records.fitted import FittedPreparation, InputColumn, TabularPreparation, TokenPreparation
from lightmill.records.signature import Architecture
from lightmill.records.specs import TrainSpec
from lightmill.training.loop import evaluate
from lightmill.training.objectives import Objective, build_objective
from lightmill.training.scores import check_scores
from lightmill.training.stopping import BEST, WAITED, EarlyStopping, check_stopping
from tests.attacks.scene import dataset_card

LOGISTIC = Architecture(name="logistic")
FEATURES, LABELS = torch.randn(7, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 1, 0, 1, 1, 1])


def card(classes: int = 2, **changes: Any) -> DatasetCard:
    found = dataset_card(columns=("ink", "price"), classes=tuple(map(str, range(classes))))
    shaped = found.model_copy(update={"features": found.features.model_copy(update={"shape": (3,)})})
    counts = dict(zip(shaped.classes, (1, 3, 4), strict=False))
    profile = shaped.profile.model_copy(update={"classes": counts, "rows_kept": sum(counts.values())})
    return shaped.model_copy(update={"profile": profile, **changes})


def spec(**more: Any) -> TrainSpec:
    base = {"model": "m", "dataset": "d", "architecture": more.pop("architecture", LOGISTIC), "workers": 1}
    return TrainSpec.model_validate(base | more)


def objective(classes: int = 2, **more: Any) -> Objective:
    return build_objective(spec(**more), card(classes), allow_python=True)


def module(outputs: int) -> nn.Module:
    torch.manual_seed(outputs)
    return nn.Linear(3, outputs)


@pytest.mark.parametrize(
    ("weights", "expected"), [("balanced", [2.0, 2 / 3]), ((0.5, 3.0), [0.5, 3.0])], ids=["balanced", "given"]
)
def test_rows_are_weighted_by_their_class(weights: Any, expected: list[float]) -> None:
    net = module(2)
    found = objective(class_weights=weights).step(net, (FEATURES, LABELS)).loss
    each = functional.cross_entropy(net(FEATURES), LABELS, reduction="none") * torch.tensor(expected)[LABELS]
    torch.testing.assert_close(found, each.mean())
    one = module(1)
    found = objective(objective="bce", class_weights=weights).step(one, (FEATURES, LABELS)).loss
    each = functional.binary_cross_entropy_with_logits(one(FEATURES)[:, 0], LABELS.float(), reduction="none")
    torch.testing.assert_close(found, (each * torch.tensor(expected)[LABELS]).mean())


def test_labels_are_smoothed() -> None:
    net, given = module(2), {"label_smoothing": 0.2}
    found = objective(objective_arguments=given).step(net, (FEATURES, LABELS)).loss
    torch.testing.assert_close(found, functional.cross_entropy(net(FEATURES), LABELS, label_smoothing=0.2))
    one = module(1)
    two = torch.cat([torch.zeros(7, 1), one(FEATURES)], dim=1)
    found = objective(objective="bce", objective_arguments=given).step(one, (FEATURES, LABELS)).loss
    torch.testing.assert_close(found, functional.cross_entropy(two, LABELS, label_smoothing=0.2))


@pytest.mark.parametrize(
    ("name", "arguments", "loss"),
    [
        ("mse", {}, functional.mse_loss),
        ("mae", {}, functional.l1_loss),
        ("huber", {"delta": 0.3}, lambda a, b: functional.huber_loss(a, b, delta=0.3)),
    ],
)
def test_numbers_are_predicted(name: str, arguments: dict[str, float], loss: Any) -> None:
    made = objective(objective=name, target="price", objective_arguments=arguments)
    prices = np.array([1, 2, 3, 4, 5, 6, 9])
    table = pa.table({"features": fixed_list(FEATURES.numpy()), "price": pa.array(prices)})
    assert made.columns == ("features", "price")
    batch = made.tensors(table)
    net = module(1)
    torch.testing.assert_close(made.step(net, batch).loss, loss(net(FEATURES)[:, 0], torch.tensor(prices).float()))
    found = evaluate(net, [tuple(tensor[:3] for tensor in batch), tuple(tensor[3:] for tensor in batch)], made)
    error = net(FEATURES)[:, 0].detach() - torch.tensor(prices)
    assert found["mae"] == pytest.approx(float(error.abs().mean()), rel=1e-5)
    assert found["rmse"] == pytest.approx(float(error.square().mean().sqrt()), rel=1e-5)
    (output,) = made.signature().outputs
    assert (output.name, output.datatype, output.shape) == ("value", "FP32", (-1,))
    assert made.architecture.arguments == {"inputs": 3, "classes": 1}


def test_a_batch_without_rows_has_no_loss_and_no_gradient() -> None:
    for made, net, kind in (
        (objective(objective="bce", class_weights="balanced"), module(1), torch.int64),
        (objective(objective="mse", target="price"), module(1), torch.float32),
    ):
        step = made.step(net, (torch.zeros(0, 3), torch.zeros(0, dtype=kind)))
        step.loss.backward()
        assert float(step.loss.detach()) == 0.0
        assert all(p.grad is not None and not p.grad.any() for p in net.parameters())


def test_a_user_s_loss_is_called_with_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_losses.py").write_text(
        "def rows(outputs, target, power):\n"
        "    return (outputs[:, 0] - target).abs() ** power\n"
        "def wrong(outputs, target):\n"
        "    return outputs[:2]\n"
        "def fails(outputs, target):\n"
        "    return 1 / 0\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    given = {"function": "own_losses:rows", "power": 3.0}
    made = objective(objective="custom", target="price", objective_arguments=given)
    net, prices = module(1), torch.arange(7.0)
    found = made.step(net, (FEATURES, prices)).loss
    torch.testing.assert_close(found, (net(FEATURES)[:, 0] - prices).abs().pow(3).mean())
    labelled = objective(objective="custom", objective_arguments={"function": "own_losses:wrong"})
    with pytest.raises(JobError, match="loss of each of the 7 rows"):
        labelled.step(module(2), (FEATURES, LABELS))
    failing = objective(objective="custom", objective_arguments={"function": "own_losses:fails"})
    with pytest.raises(JobError, match="ZeroDivisionError"):
        failing.step(module(2), (FEATURES, LABELS))
    with pytest.raises(RequestError, match="not allowed here"):
        build_objective(spec(objective="custom", objective_arguments=given, target="price"), card())
    sys.modules.pop("own_losses", None)


def with_tokens(**changes: Any) -> DatasetCard:
    tokens = TokenPreparation(column="tokens", length=4, segments="tokens_mask", vocabulary=9)
    none = dataset_card().features.model_copy(update={"shape": (0,)})
    return card(features=none, tokens=tokens.model_copy(update=changes))


def test_texts_are_told_apart_by_an_encoder() -> None:
    encoder = Architecture(name="encoder", arguments={"width": 8, "layers": 1, "heads": 2})
    made = build_objective(spec(architecture=encoder), with_tokens())
    assert made.columns == ("tokens", "tokens_mask", "label") and made.reads_tokens
    assert made.architecture.arguments == {**encoder.arguments, "vocabulary": 9, "context": 4, "classes": 2}
    ids = fixed_list(np.array([[1, 2, 0, 0], [3, 4, 5, 6]], dtype=np.int32))
    batch = made.tensors(pa.table({"tokens": ids, "tokens_mask": ids, "label": [1, 0]}))
    assert [tuple(tensor.shape) for tensor in batch] == [(2, 4), (2, 4), (2,)]
    signature = made.signature()
    assert [(one.name, one.datatype, one.shape) for one in signature.inputs] == [("tokens", "INT64", (-1, -1))]
    assert [one.name for one in signature.outputs] == ["probabilities", "label"]
    with pytest.raises(RequestError, match="`mask: true`"):
        build_objective(spec(architecture=encoder), with_tokens(segments=None))


def test_an_entrypoint_takes_features_where_there_are_some_and_else_token_ids() -> None:
    own = Architecture(entrypoint="my_pkg.nets:build")
    assert not build_objective(spec(architecture=own), card()).reads_tokens
    assert build_objective(spec(architecture=own), with_tokens()).reads_tokens


FED = TabularPreparation(columns=(InputColumn(name="price", dtype="float64"),), fitted=FittedPreparation(), width=3)


@pytest.mark.parametrize(
    ("more", "changes", "says"),
    [
        ({"objective": "mse"}, {}, "needs `target`"),
        (
            {"objective": "mse", "target": "cost"},
            {},
            "'cost' is no source column that the dataset keeps; it keeps ink, price",
        ),
        ({"objective": "mse", "target": "price"}, {"preparation": FED}, "is a feature as well"),
        ({"objective": "huber", "target": "price", "objective_arguments": {"delta": -1.0}}, {}, "delta is -1.0"),
        ({"objective": "mse", "target": "price", "class_weights": "balanced"}, {}, "`class_weights` are for"),
        ({"target": "price"}, {}, "`target: price` is for mse"),
        ({"objective": "bce"}, {"classes": ("a", "b", "c")}, "two classes, and there are 3"),
        ({"class_weights": (1.0,)}, {}, "must be 2 numbers"),
        ({"class_weights": "balanced"}, {"classes": ("0", "other")}, "none of 'other'"),
        ({"objective_arguments": {"smooth": 0.1}}, {}, "objective_arguments.smooth is unknown"),
        ({"objective_arguments": {"label_smoothing": 2.0}}, {}, "from 0 to 1"),
        ({"objective": "custom"}, {}, "objective_arguments.function"),
    ],
)
def test_what_does_not_fit_is_refused(more: dict[str, Any], changes: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as caught:
        build_objective(spec(**more), card().model_copy(update=changes))
    assert says in caught.value.message


def test_more_metrics_are_those_of_torchmetrics() -> None:
    torchmetrics = pytest.importorskip("torchmetrics", reason="the extra metrics is not installed")
    made = objective(3, metrics=["f1", "auroc"])
    check_scores(made)
    assert made.held_out == ("accuracy", "f1", "auroc")
    net, labels = module(3), torch.tensor([0, 1, 2, 2, 1, 0, 0])
    found = evaluate(net, [(FEATURES[:4], labels[:4]), (FEATURES[4:], labels[4:])], made)
    scores = net(FEATURES).detach().softmax(dim=1)
    expected = torchmetrics.functional.f1_score(scores, labels, task="multiclass", num_classes=3, average="macro")
    assert found["f1"] == pytest.approx(float(expected))
    number = objective(objective="mse", target="price", metrics=["r2"])
    prices = torch.arange(7.0)
    found = evaluate(module(1), [(FEATURES, prices)], number)
    expected = torchmetrics.functional.r2_score(module(1)(FEATURES)[:, 0].detach(), prices)
    assert found["r2"] == pytest.approx(float(expected), rel=1e-5)
    binary = objective(objective="bce", metrics=["auroc", "matthews"])
    check_scores(binary)
    assert 0 <= evaluate(module(1), [(FEATURES, LABELS)], binary)["auroc"] <= 1
    with pytest.raises(RequestError, match=r"'r2' is unknown to `objective: cross_entropy`; choose of auroc"):
        check_scores(objective(metrics=["r2"]))


def test_a_run_stops_when_a_metric_no_longer_improves_and_remembers_after_a_resumption() -> None:
    asked = spec(early_stopping={"metric": "validation_accuracy", "patience": 2, "min_delta": 0.01})
    check_stopping(asked, objective())
    stopping = EarlyStopping(asked.early_stopping, {})
    seen: dict[str, float] = {}
    for value, best, waited in [(0.5, 0.5, 0), (0.6, 0.6, 0), (0.605, 0.6, 1)]:
        seen = stopping.observe({"validation_accuracy": value})
        assert (seen[BEST], seen[WAITED], stopping.stops) == (best, waited, False)
    again = EarlyStopping(asked.early_stopping, seen)
    assert again.observe({"validation_accuracy": 0.4})[WAITED] == 2 and again.stops
    falling = EarlyStopping(spec(early_stopping={"patience": 1}).early_stopping, {})
    for value, stops in [(1.0, False), (0.5, False), (0.7, True)]:
        falling.observe({"validation_loss": value})
        assert falling.stops == stops
    with pytest.raises(RequestError, match="'steps_per_second' is not measured"):
        check_stopping(spec(early_stopping={"metric": "steps_per_second"}), objective())
