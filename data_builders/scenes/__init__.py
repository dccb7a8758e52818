"""Procedural scenes: dated image sequences with exact ground truth."""
