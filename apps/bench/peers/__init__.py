"""Public code of published models, the other side of a benchmark: imported from PYTHONPATH, in functions alone."""
