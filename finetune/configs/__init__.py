"""Configurations of DeepSpeed, FSDP2 and `accelerate launch`, found by their short names (`geotempo.finetune.scale`)."""
