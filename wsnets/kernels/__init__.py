"""Compiled arithmetic of weight-space networks."""
