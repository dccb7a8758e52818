"""Commented YAML recipes for `geotempo train`."""
