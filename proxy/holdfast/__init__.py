"""Holdfast: a connected registry. docs/design.md, "Layout", says what each package is."""
