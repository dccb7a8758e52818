"""Predictor, georeferencing of answers, result pages."""
