"""TEOChat's own image preparation, bit for bit.

The original (`LanguageBindImageProcessor`) resizes the float image: RGB, divided by 255, shortest edge to 224 with
antialiased bicubic interpolation whose overshoot is kept, centre crop, normalised. `CLIPImageProcessor` rounds the
resized image to 8 bits first and clips the overshoot, which moves pixels by 0.13 and more in normalised units; no stock
class can be set not to.

`register` makes the class known to transformers; vLLM calls it through the entry point `vllm.general_plugins`
(`geotempo.model.vllm_plugin`).
"""

from typing import Any

import numpy as np
import torch
from transformers import AutoImageProcessor, BatchFeature, PreTrainedConfig
from transformers.image_processing_utils import BaseImageProcessor

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class TeoChatImageProcessor(BaseImageProcessor):  # type: ignore[misc]  # transformers is Any to mypy
    """Shortest edge to `size`, antialiased bicubic on floats without clamping; centre crop; normalise.

    Settings are four of `CLIPImageProcessor`'s (`size`, `crop_size`, `image_mean`, `image_std`), saved with the
    checkpoint. Takes whatever transformers takes as images; gives `pixel_values` of shape (images, 3, crop, crop),
    float32.
    """

    # Saved folders carry this file, so that they can also be loaded without GeoTempo, with trust_remote_code=True;
    # where the class is registered, transformers takes that and runs nothing from the folder.
    _auto_class = "AutoImageProcessor"
    model_input_names = ["pixel_values"]  # noqa: RUF012 (as in every class of transformers)
    default_to_square = False
    size = {"shortest_edge": 224}  # noqa: RUF012
    crop_size = {"height": 224, "width": 224}  # noqa: RUF012
    image_mean = CLIP_MEAN
    image_std = CLIP_STD

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._set_attributes(**kwargs)

    @property
    def backend(self) -> str:
        """Torch alone; torchvision is not needed."""
        return "torch"

    def process_image(self, image: Any, input_data_format: str | None = None, **_: Any) -> torch.Tensor:
        """One picture as float32 RGB of shape (3, height, width): 8-bit values become 0-1, floats stay.

        Args:
            image: PIL image, array or tensor, channels first or last.
            input_data_format: `channels_first` or `channels_last`, where the shape leaves it open.
        """
        if hasattr(image, "convert"):
            image, input_data_format = image.convert("RGB"), "channels_last"
        values = image if isinstance(image, torch.Tensor) else torch.from_numpy(np.array(image))
        if values.ndim == 2:
            values, input_data_format = values[None], "channels_first"
        if input_data_format == "channels_last" or (input_data_format is None and values.shape[0] not in (1, 3)):
            values = values.permute(2, 0, 1)
        if values.shape[0] == 1:
            values = values.expand(3, -1, -1)
        # Contiguous as torchvision's ToTensor makes it: interpolate sums in another order otherwise.
        values = values.contiguous()
        return values.float() if values.is_floating_point() else values.float() / 255

    def _preprocess(self, images: list[torch.Tensor], size: Any, crop_size: Any, image_mean: Any, image_std: Any,
                    return_tensors: Any = None, **_: Any) -> BatchFeature:
        mean, std = torch.tensor(image_mean)[:, None, None], torch.tensor(image_std)[:, None, None]
        crop = (crop_size["height"], crop_size["width"])
        pixels = [(centre_crop(resize_shortest(image, size["shortest_edge"]), *crop) - mean) / std for image in images]
        return BatchFeature({"pixel_values": torch.stack(pixels)}, tensor_type=return_tensors)


def resize_shortest(image: torch.Tensor, edge: int) -> torch.Tensor:
    """Resize so that the shorter side has `edge` pixels, antialiased bicubic, values not clamped.

    Args:
        image: Shape (3, height, width), float.
        edge: Pixels; the longer side becomes `int(edge * long / short)`, as torchvision's `Resize` counts.
    """
    height, width = image.shape[1:]
    longer = int(edge * max(height, width) / min(height, width))
    target = (longer, edge) if height >= width else (edge, longer)
    if target == (height, width):
        return image
    resized = torch.nn.functional.interpolate(image[None], target, mode="bicubic", align_corners=False, antialias=True)
    return resized[0]


def centre_crop(image: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """The middle of an image that is at least that large, with torchvision's rounding of half pixels."""
    top, left = round((image.shape[1] - height) / 2.0), round((image.shape[2] - width) / 2.0)
    return image[:, top : top + height, left : left + width]


class _TeoChatImages(PreTrainedConfig):  # type: ignore[misc]  # as above
    """Key under which the image processor is registered; no checkpoint has a config of this type."""

    model_type = "teochat_images"


def register() -> None:
    """Make `AutoImageProcessor` and `AutoProcessor` know `TeoChatImageProcessor`. May be called again."""
    classes = dict.fromkeys(("pil", "torchvision"), TeoChatImageProcessor)
    AutoImageProcessor.register(_TeoChatImages, image_processor_classes=classes, exist_ok=True)
