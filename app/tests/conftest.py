"""Hypothesis draws the same examples in every run, and no slow machine fails one.

``pytest --hypothesis-profile=default`` looks for others.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")
