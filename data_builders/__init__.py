"""Source datasets and procedural scenes to samples, samples to Parquet."""
