"""SAM, SAM 2 and SAM 2 video checkpoints of the real architectures with few, random weights: input 64 px."""

from pathlib import Path

import torch
from transformers import Sam2Config, Sam2Model, Sam2VideoConfig, Sam2VideoModel, SamConfig, SamModel
from transformers.models.sam2_video.configuration_sam2_video import Sam2VideoMaskDecoderConfig

SIDE = 64
PROMPT = {"hidden_size": 16, "image_size": SIDE}
DECODER = {"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
HIERA = {
    "backbone_config": {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1, "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2], "window_size_per_stage": [4, 4, 4, 4],
        "global_attention_blocks": [3], "window_positional_embedding_background_size": [4, 4]},
    "backbone_channel_list": [64, 32, 16, 8], "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": 16}


def sam() -> SamModel:
    """Masks of 32 px."""
    torch.manual_seed(0)
    return SamModel(SamConfig(
        vision_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": SIDE,
                       "patch_size": 8, "mlp_ratio": 2.0, "window_size": 4, "global_attn_indexes": [],
                       "output_channels": 16, "num_pos_feats": 8, "initializer_range": 0.02},
        prompt_encoder_config={**PROMPT, "patch_size": 8}, mask_decoder_config=DECODER)).eval()


def sam2() -> Sam2Model:
    """Masks of 16 px."""
    torch.manual_seed(0)
    return Sam2Model(Sam2Config(vision_config=HIERA, prompt_encoder_config={**PROMPT, "patch_size": 16},
                                mask_decoder_config=DECODER)).eval()


def sam2_video() -> Sam2VideoModel:
    """As the published SAM 2.1 checkpoints: model type `sam2_video`, with a memory that images do not need."""
    torch.manual_seed(0)
    # The class reads a dictionary for the decoder as one for the prompt encoder (transformers 5.19).
    return Sam2VideoModel(Sam2VideoConfig(
        vision_config=HIERA, prompt_encoder_config={**PROMPT, "patch_size": 16}, image_size=SIDE,
        mask_decoder_config=Sam2VideoMaskDecoderConfig(**DECODER), memory_attention_hidden_size=16,
        memory_encoder_hidden_size=16, memory_encoder_output_channels=8)).eval()


def write(family: str, folder: Path) -> Path:
    """Save one of the three as a folder with config.json and model.safetensors only."""
    {"sam": sam, "sam2": sam2, "sam2_video": sam2_video}[family]().save_pretrained(folder)
    return folder
