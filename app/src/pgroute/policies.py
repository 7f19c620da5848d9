"""Moved to :mod:`pgroute.core.policies`."""

from pgroute.core.policies import POLICIES, Policy, RandomOrder, RoundRobin

__all__ = ["POLICIES", "Policy", "RandomOrder", "RoundRobin"]
