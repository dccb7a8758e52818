"""Reading and writing checkpoint folders.

A checkpoint is an ordinary Hugging Face folder. Weights are written under the names that vLLM's LLaVA wants
(`vision_tower.vision_model.…`, `language_model.model.…`); transformers reads these too. Whatever base is read, its
processor comes back with a chat template that keeps images in place and marks the answer (`geotempo.model.template`)
and with the pixel budget of a sequence; both are saved with a tuned checkpoint, so that every engine sees them.
"""

import os
import pickle
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.utils import is_torchvision_available

from geotempo.model.bases import BASES, Base, base_of, set_pixel_budget
from geotempo.model.errors import ModelError
from geotempo.model.template import interleaving_template, processor_renderer
from geotempo.model.teochat_images import register
from geotempo.model.weight_files import Planned, write_shards

# transformers' in-memory names -> the on-disk names that vLLM 0.32 accepts; the longest prefix wins.
_DISK_NAMES = (
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.image_newline", "image_newline"),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)

_ADVICE = "Give a folder written by geotempo compose, import-teochat or train, or a hub name owner/name"
_MARKED = re.compile(r"\{%-?\s*generation\b")


def default_model() -> Path:
    """Folder of the embedded checkpoint `geotempo-tiny`.

    Raises:
        ModelError: The installation lacks the weights.
    """
    folder = Path(__file__).parent / "weights" / "geotempo_tiny"
    if not (folder / "model.safetensors").is_file():
        raise ModelError(f"the embedded model is missing at {folder}; reinstall GeoTempo or give --model DIR")
    return folder


def write_folder(out: Path, fill: Callable[[Path], None]) -> None:
    """Write a folder aside, then put it under its final name in one step.

    Args:
        out: Final folder; an older one of that name is replaced.
        fill: Writes the content into the folder it is given.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    fill(aside)
    for file in aside.rglob("*"):
        if file.is_file() and not file.is_symlink():
            file.chmod(0o644)  # safetensors makes its files readable by their owner only
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    if out.exists():
        old = out.with_name(f".{out.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
        aside.rename(out)
        shutil.rmtree(old)
    else:
        aside.rename(out)


def save_checkpoint(model: PreTrainedModel, processor: ProcessorMixin, out: Path, dtype: torch.dtype = torch.float32) -> None:
    """Save an image-text model and its processor as one folder for transformers and vLLM.

    Args:
        model: Of a type in `geotempo.model.bases.BASES`.
        processor: Its processor.
        out: Folder to write; replaced as a whole.
        dtype: Storage type of the weights.
    """
    tied = model.lm_head.weight is model.get_input_embeddings().weight
    renamed = BASES[model.config.model_type].vllm_names

    def fill(folder: Path) -> None:
        state = {disk_name(name) if renamed else name: tensor for name, tensor in model.state_dict().items()
                 if not (tied and name == "lm_head.weight")}
        planned = [Planned(name, tuple(tensor.shape), tensor.detach().cpu) for name, tensor in state.items()]
        write_shards(folder, planned, dtype, lambda _: None)
        model.config.architectures = [type(model).__name__]
        model.config.dtype = dtype
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        processor.save_pretrained(folder)

    write_folder(out, fill)


def disk_name(name: str) -> str:
    """Name on disk of a parameter of a LLaVA, LLaVA-NeXT or LLaVA-OneVision model."""
    for memory, disk in _DISK_NAMES:
        if name.startswith(memory):
            return disk + name.removeprefix(memory)
    return name


def check_source(name: str, advice: str) -> None:
    """Refuse a name that is neither a folder here nor of the form `owner/name`, before a hub is asked for it.

    Raises:
        ModelError: With the advice what to give instead.
    """
    is_hub_name = name.count("/") == 1 and name[0] not in "./~"
    if not is_hub_name and not (name and Path(name).is_dir()):
        raise ModelError(f"no such folder: {name!r}. {advice}")


@contextmanager
def reading(name: str, what: str, advice: str) -> Iterator[None]:
    """Turn what transformers and safetensors raise on a missing, corrupt or foreign checkpoint into a `ModelError`.

    Args:
        name: Folder or hub name that is read.
        what: What is expected there ("SAM").
        advice: What to give instead.
    """
    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, pickle.UnpicklingError, SafetensorError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ModelError(f"cannot load {what} from {name!r}: {first}. {advice}") from None


def refuse_misfit(report: Mapping[str, Collection[str]], name: str) -> None:
    """Refuse weights that leave parameters unset or bring others.

    Args:
        report: `output_loading_info` of `from_pretrained`.
        name: Folder or hub name that was read.

    Raises:
        ModelError: Names the first missing and unexpected keys.
    """
    wrong = [f"{kind} {sorted(report[kind])[:3]}" for kind in ("missing_keys", "unexpected_keys") if report[kind]]
    if wrong:
        raise ModelError(f"the weights in {name!r} do not fit the architecture: {'; '.join(wrong)}")


def load_checkpoint(folder: str | Path, dtype: torch.dtype | Literal["auto"] = torch.float32, max_pixels: int | None = None,
                    quantization: Any = None) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load an image-text model and its processor from a folder or by hub name.

    Args:
        folder: Folder or hub name.
        dtype: Type of the weights in memory; auto takes the type they are stored in.
        max_pixels: Most pixels of one image as the model sees it, where the base allows a choice.
        quantization: A transformers quantisation config (`finetune.methods.quantization`); None loads the weights as they are.

    Returns:
        The model in evaluation mode on the CPU (quantised: on the GPU if there is one), and its processor.

    Raises:
        ModelError: The folder is missing, incomplete, holds another kind of model, or needs a package that is missing.
    """
    name = str(folder)
    config, processor = load_processor(name, max_pixels)
    with reading(name, "a model", _ADVICE):
        model, report = AutoModelForImageTextToText.from_pretrained(
            name, config=config, dtype=dtype, output_loading_info=True, quantization_config=quantization)
    refuse_misfit(report, name)
    return model.eval(), processor


def load_processor(folder: str | Path, max_pixels: int | None = None,
                   own: Path | None = None) -> tuple[PreTrainedConfig, ProcessorMixin]:
    """Load config and processor of an image-text model without its weights; arguments and errors as for `load_checkpoint`.

    Args:
        folder: Folder or hub name.
        max_pixels: As for `load_checkpoint`.
        own: Folder of an adapter whose processor was saved beside it: that one is loaded, with its pixel budget.

    Returns:
        The config and the processor, with a chat template that keeps images in place and marks answers, and with the
        pixel budget set in both.
    """
    name = str(folder)
    check_source(name, _ADVICE)
    with reading(name, "a model", _ADVICE):
        config = AutoConfig.from_pretrained(name)
        base = base_of(config, name)
        if base.needs_torchvision and not is_torchvision_available():
            raise ModelError(f"{name!r} is a {base.name} model, whose image processor needs torchvision, which is not installed; "
                             "run: pip install torchvision (of the release and index of your torch)")
        register()  # the image processor of imported TEOChat checkpoints
    with reading(str(own or name), "a processor", _ADVICE):
        processor = AutoProcessor.from_pretrained(str(own or name))
    if base.drops_tiles:
        each_image_alone(processor)
    if own is None:
        set_pixel_budget(config, processor, max_pixels)
    elif base.resolution == "tiles":
        config.image_grid_pinpoints = [list(tile) for tile in processor.image_processor.image_grid_pinpoints]
    set_template(processor, base, _stops(name, config), name)
    return config, processor


def _stops(name: str, config: PreTrainedConfig) -> int | list[int] | None:
    """Ids of the tokens that end an answer, from the generation config where there is one."""
    try:
        found: int | list[int] | None = GenerationConfig.from_pretrained(name).eos_token_id
    except (OSError, ValueError):
        found = None
    if found is None:
        found = config.get_text_config().eos_token_id
    return found


def set_template(processor: ProcessorMixin, base: Base, stops: int | list[int] | None, name: str) -> None:
    """Give a processor a chat template that keeps images in place and marks the answer, unless it has one.

    Args:
        processor: Changed.
        base: Its family.
        stops: Ids of the tokens that end an answer, as the generation config has them.
        name: Folder or hub name, for messages.

    Raises:
        ModelError: The base has no chat template, or one that is not made of turns.
    """
    if not processor.chat_template:
        raise ModelError(f"{name!r} has no chat template; put a chat_template.jinja into the folder")
    if _MARKED.search(processor.chat_template) and (base.keeps_order or _keeps_order(processor, base)):
        return
    tokenizer = processor.tokenizer
    ids = stops if isinstance(stops, list) else [stops]
    tokens = dict.fromkeys([tokenizer.eos_token, *(tokenizer.convert_ids_to_tokens(i) for i in ids if i is not None)])
    begins = tokenizer("").input_ids[:1]
    bos = tokenizer.bos_token if tokenizer.bos_token and begins == [tokenizer.bos_token_id] else ""
    processor.chat_template = interleaving_template(processor_renderer(processor), base.image_text,
                                                    [token for token in tokens if token], bos, name)


def each_image_alone(processor: ProcessorMixin) -> None:
    """Make a processor prepare every image of a prompt as it prepares a single one, as vLLM does.

    LLaVA-OneVision's takes a list of lists as the images of one prompt each and then leaves their tiles out; a flat list
    it takes as single images. `apply_chat_template` hands over a list of lists.
    """
    own = type(processor)

    def call(self: Any, images: Any = None, *args: Any, **kwargs: Any) -> Any:
        flat = [image for group in images for image in group] if images and isinstance(images[0], list) else images
        return own.__call__(self, flat, *args, **kwargs)

    # The same name, so that a saved folder says what class reads it.
    processor.__class__ = type(own.__name__, (own,), {"__call__": call, "__module__": own.__module__})


def _keeps_order(processor: ProcessorMixin, base: Base) -> bool:
    """Whether a processor's own template leaves an image between the texts around it."""
    parts = [{"type": "text", "text": "before"}, {"type": "image"}, {"type": "text", "text": "after"}]
    text = processor.apply_chat_template([{"role": "user", "content": parts}], tokenize=False)
    return bool(0 <= text.find("before") < text.find(base.image_text) < text.find("after"))
