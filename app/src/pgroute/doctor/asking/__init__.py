"""From servers to facts: whatever needs a network. Nothing here judges."""
