"""Optimizers, schedules and what is done between gradients and weights."""

from lightmill.training.optimization.computing import made_ready
from lightmill.training.optimization.optimizers import build_optimizer
from lightmill.training.optimization.schedules import learning_rate_factor
from lightmill.training.optimization.updater import Updater

__all__ = ["Updater", "build_optimizer", "learning_rate_factor", "made_ready"]
