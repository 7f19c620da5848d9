"""The decisions: pure, without I/O, clock or randomness of their own. See each module."""
