"""A policy sampling a task's problems, verified."""

from restem.rollout.rollout import GREEDY, Costs, Rollout

__all__ = ["GREEDY", "Costs", "Rollout"]
