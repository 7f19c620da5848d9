"""What the doctor holds against the facts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    expiry_days: float = 30.0  # a certificate that ends within these is worth a warning
    clock_seconds: float = 1.0  # clocks that differ by more
    processes: int = 1  # that use this configuration at once
