"""The state of a module and of what updates it, by the names of parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from lightmill.training.optimization.updater import Updater

State = dict[str, Any]


def module_state(module: nn.Module, updater: Updater) -> State:
    """Return the state of a module and its optimizer, by the names of parameters."""
    model, optimizer = get_state_dict(module, updater.optimizer)
    return {
        "model": model,
        "optimizer": optimizer,
        "averaged": dict(updater.averaged),
        "updates": torch.tensor(updater.step),
        "scaling": updater.scaling,
    }


def load_module_state(module: nn.Module, updater: Updater, state: State) -> None:
    """Put back what `module_state` returned."""
    settings = [{key: value for key, value in g.items() if key != "params"} for g in updater.optimizer.param_groups]
    set_state_dict(module, updater.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    for group, kept in zip(updater.optimizer.param_groups, settings, strict=True):
        group.update(kept)  # the settings stay those of the specification
    with torch.no_grad():
        for name, value in updater.averaged.items():
            value.copy_(state["averaged"][name])
    updater.step = int(state["updates"])
    updater.scaling = state.get("scaling", {})  # parameter servers scale no loss
