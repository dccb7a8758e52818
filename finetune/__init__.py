"""Parquet to batches to LoRA training to checkpoints."""
