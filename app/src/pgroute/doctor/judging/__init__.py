"""From facts to findings: one module per subject. Pure."""
