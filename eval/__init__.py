"""Benchmark tasks, metrics, runner, reports."""
