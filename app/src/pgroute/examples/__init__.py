"""Worked examples: how an application uses pgroute."""
