"""What the router tells, and to whom: metrics, traces, logs."""
