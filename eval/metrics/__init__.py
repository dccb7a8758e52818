"""Metrics as pure functions on python and numpy values; fractions 0-1, printed times 100 by the report."""
