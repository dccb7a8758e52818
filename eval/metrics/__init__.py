"""Metrics as pure functions on python and numpy values."""
