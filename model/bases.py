"""The image-text models that GeoTempo tunes and serves, and what differs between them.

One row a family; everything else is read from the checkpoint. No torch and no transformers at import.
"""

from dataclasses import dataclass
from typing import Any, Literal

from geotempo.model.convention import GEOTEMPO, TEOCHAT, Convention, PixelGrid
from geotempo.model.errors import ModelError

LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Linear layers of a Llama or Qwen block that an adapter can sit on."""


@dataclass(frozen=True)
class Base:
    """One family of image-text models.

    Attributes:
        name: As papers call it.
        model_type: `model_type` of its config.json.
        image_text: How one image stands in the prompt.
        keeps_order: Whether its own chat template leaves images where they stand between the texts. LLaVA's put all
            images first, which tears `Image 2 (2021-08-03): <image>` apart; these get an interleaving template.
        coordinates: `1000`: numbers run 0-1000; `pixels`: it natively counts pixels of the resized picture.
        vision: Module of the vision encoder.
        projector: Module between it and the LLM.
        lora: Where adapters go, a regular expression with {targets}: linear layers of the LLM only, since vLLM
            ignores adapters on the projector without an error and breaks on some vision towers.
        resolution: What a pixel budget changes: nothing (`fixed`), the choice of tiles (`tiles`), the size (`pixels`).
        max_pixels: Pixel budget per image, where none is given; None leaves what the checkpoint says.
        needs_torchvision: Whether its processor cannot be built without torchvision (transformers 5.19).
        drops_tiles: Whether transformers prepares the images of a sequence in another way than a single image. vLLM cannot:
            it encodes each image alone. So it is undone in transformers (`checkpoints.each_image_alone`).
        vllm_names: Whether vLLM wants `vision_tower.vision_model.` in weight names (`checkpoints.disk_name`).
    """

    name: str
    model_type: str
    image_text: str
    keeps_order: bool
    coordinates: Literal["1000", "pixels"]
    vision: str
    projector: str
    lora: str
    resolution: Literal["fixed", "tiles", "pixels"]
    max_pixels: int | None
    needs_torchvision: bool
    drops_tiles: bool
    vllm_names: bool


_LLM = r".*language_model\..*\.({targets})"
_LLAVA = ("vision_tower", "multi_modal_projector", _LLM)
_QWEN = ("visual", "visual.merger", _LLM)
_QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
# 448 x 448 pixels are 256 tokens of Qwen2.5-VL and 196 of Qwen3-VL: 16 images in 4,096 tokens. Qwen's own limit of 12.8
# million pixels is 16,384 tokens for one image.
_SEQUENCE_PIXELS = 448 * 448

BASES = {row.model_type: row for row in (
    Base("LLaVA-1.5", "llava", "<image>", False, "1000", *_LLAVA, "fixed", None, False, False, True),
    Base("LLaVA-NeXT", "llava_next", "<image>", False, "1000", *_LLAVA, "tiles", None, False, False, True),
    Base("LLaVA-OneVision", "llava_onevision", "<image>", False, "1000", *_LLAVA, "tiles", None, True, True, True),
    Base("Qwen2.5-VL", "qwen2_5_vl", _QWEN_IMAGE, True, "pixels", *_QWEN, "pixels", _SEQUENCE_PIXELS, True, False, False),
    Base("Qwen3-VL", "qwen3_vl", _QWEN_IMAGE, True, "1000", *_QWEN, "pixels", _SEQUENCE_PIXELS, True, False, False),
)}
"""By `model_type`. Models that `geotempo compose` builds and imported TEOChat checkpoints are of type `llava`."""


def base_of(config: Any, name: str) -> Base:
    """The row of a checkpoint.

    Args:
        config: A transformers config.
        name: Folder or hub name, for the message.

    Raises:
        ModelError: There is none.
    """
    if config.model_type not in BASES:
        known = ", ".join(f"{base.name} ({base.model_type})" for base in BASES.values())
        raise ModelError(f"{name!r} is a {config.model_type!r} model; an image-text model is needed, one of: {known}. "
                         "Build one with: geotempo compose")
    return BASES[config.model_type]


def module_of(parameter: str) -> str:
    """Which part a parameter belongs to: vision_tower, projector or language_model.

    Args:
        parameter: Its name in any model of `BASES`, as `named_parameters` gives it, also inside a PEFT wrapper.
    """
    inside = f".{parameter}"
    # LLaVA-NeXT's and OneVision's image_newline is learned with the projector.
    if ".image_newline" in inside or any(f".{base.projector}." in inside for base in BASES.values()):
        return "projector"
    return "vision_tower" if any(f".{base.vision}." in inside for base in BASES.values()) else "language_model"


def lora_modules(base: Base, targets: tuple[str, ...] = LORA_TARGETS) -> str:
    """Regular expression, matched in full, of the module names that get an adapter."""
    return base.lora.format(targets="|".join(targets))


def convention_of(config: Any, processor: Any) -> Convention:
    """The convention in which a checkpoint is asked and counts coordinates.

    Args:
        config: A transformers config of one of `BASES`.
        processor: Its processor; its pixel limits say what a pixel of the model is.
    """
    if getattr(config, "geotempo_mode", None) == "teochat":
        return TEOCHAT
    if BASES[config.model_type].coordinates != "pixels":
        return GEOTEMPO
    images = processor.image_processor
    factor = images.patch_size * images.merge_size
    return Convention(pixels=PixelGrid(factor, *_pixel_limits(images)))


def set_pixel_budget(config: Any, processor: Any, max_pixels: int | None = None) -> None:
    """Limit the pixels per image, by means that stock vLLM shares: settings that are saved in the checkpoint.

    Args:
        config: A transformers config of one of `BASES`; changed where the choice of tiles stands in it.
        processor: Its processor; changed.
        max_pixels: Most pixels of one image as the model sees it; None takes the table's.

    Raises:
        ModelError: The family's vision encoder has a fixed input, or the budget is below one patch or tile.
    """
    base = BASES[config.model_type]
    wanted = max_pixels or base.max_pixels
    if wanted is None:
        return
    images = processor.image_processor
    if base.resolution == "pixels":
        lowest, highest = _pixel_limits(images)
        unit = (images.patch_size * images.merge_size) ** 2
        if wanted < unit:
            raise ModelError(f"a budget of {wanted} pixels per image is below one token of {base.name} ({unit} pixels)")
        limit = wanted if max_pixels else min(wanted, highest)
        images.size = {"shortest_edge": min(lowest, limit), "longest_edge": limit}
    elif base.resolution == "tiles":
        kept = [list(tile) for tile in config.image_grid_pinpoints if tile[0] * tile[1] <= wanted]
        if not kept:
            smallest = min(tile[0] * tile[1] for tile in config.image_grid_pinpoints)
            raise ModelError(f"a budget of {wanted} pixels per image is below the smallest tile arrangement of {base.name} "
                             f"({smallest} pixels)")
        config.image_grid_pinpoints = kept
        images.image_grid_pinpoints = kept
    else:
        raise ModelError(f"the vision encoder of {base.name} has a fixed input, so max_pixels cannot be {wanted}; choose an "
                         "encoder with a smaller grid with geotempo compose, or fewer dates")


def _pixel_limits(images: Any) -> tuple[int, int]:
    """(min_pixels, max_pixels) of a Qwen-VL image processor."""
    size = images.size
    return int(size["shortest_edge"]), int(size["longest_edge"])
