"""Kernels that evaluate fields, and the formulas that every kernel shares."""
