"""Fakes that ship with the project: a clock that jumps, and a parent registry that misbehaves by script."""
