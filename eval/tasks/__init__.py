"""A task is a YAML file; see `geotempo.eval.task`."""
