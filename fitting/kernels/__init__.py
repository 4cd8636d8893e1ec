"""Fitting kernels: one signature (task.py), several backends (step_torch, step_native)."""
