"""Weights of the published code, renamed for the models in here."""
