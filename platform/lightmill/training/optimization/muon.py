"""Muon for matrices, AdamW for everything else, as one optimizer.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); J. Liu et al., "Muon is scalable for
LLM training" (2025), for one learning rate that suits both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

_OWN = ("momentum", "nesterov", "ns_coefficients", "ns_steps")
_BESIDE = ("embedding", "embed_", "wte", "wpe", "head")


class MuonWithAdamW(torch.optim.Optimizer):
    """Updates the matrices between the first and the last layer by Muon, all other parameters by AdamW."""

    def __init__(self, named: Mapping[str, nn.Parameter], lr: float, weight_decay: float, **arguments: Any) -> None:
        """Divide the parameters.

        Args:
            named: They by their names.
            lr: The learning rate of both; Muon's updates are scaled to the size of AdamW's.
            weight_decay: Of both.
            arguments: `momentum`, `nesterov`, `ns_coefficients` and `ns_steps` of Muon, `betas` of AdamW.

        Raises:
            TypeError: There is no such argument.
        """
        own = {name: arguments.pop(name) for name in _OWN if name in arguments}
        betas = arguments.pop("betas", (0.9, 0.999))
        if arguments:
            raise TypeError(f"unexpected argument {next(iter(arguments))!r}")
        matrices = {name: p for name, p in named.items() if p.ndim == 2 and not _beside(name)}
        others = [p for name, p in named.items() if name not in matrices]
        both: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay}
        self._muon = (
            torch.optim.Muon(matrices.values(), adjust_lr_fn="match_rms_adamw", **own, **both) if matrices else None
        )
        self._adamw = torch.optim.AdamW(others, betas=betas, **both) if others else None
        groups = [group for part in self._parts() for group in part.param_groups]
        super().__init__(groups, {})
        self._link()

    def step(self, closure: Any = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - no closures here
        """Update all parameters by their gradients."""
        del closure
        for part in self._parts():
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a state that `state_dict` gave."""
        super().load_state_dict(state_dict)
        self._link()

    def _parts(self) -> Iterable[torch.optim.Optimizer]:
        return [part for part in (self._muon, self._adamw) if part is not None]

    def _link(self) -> None:
        """Let both parts work on this optimizer's groups and state."""
        for part, group in zip(self._parts(), self.param_groups, strict=True):
            part.param_groups = [group]
            part.state = self.state


def _beside(name: str) -> bool:
    """Whether a matrix is an embedding or reads the outputs, which Muon is not for."""
    return any(part in name for part in _BESIDE)
