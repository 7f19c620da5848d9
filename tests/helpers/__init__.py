"""What both test suites share: where things are, and what an inventory says once it is resolved."""
