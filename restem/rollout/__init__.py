"""Rollouts: a policy samples a task's problems, and a verifier grades the samples."""

from restem.rollout.rollout import GREEDY, Costs, Rollout

__all__ = ["GREEDY", "Costs", "Rollout"]
