"""One file per source dataset."""
