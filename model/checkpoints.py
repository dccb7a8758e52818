"""Reading and writing checkpoint folders.

A checkpoint is an ordinary Hugging Face folder. Weights are written under the names that vLLM's LLaVA wants
(`vision_tower.vision_model.…`, `language_model.model.…`); transformers reads these too.
"""

import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from geotempo.model.errors import ModelError

# transformers' in-memory names -> the on-disk names that vLLM 0.32 accepts; the longest prefix wins.
_DISK_NAMES = (
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)


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
        if file.is_file():
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
    """Save a LLaVA model and its processor as one folder for transformers and vLLM.

    Args:
        model: A `LlavaForConditionalGeneration`.
        processor: Its processor.
        out: Folder to write; replaced as a whole.
        dtype: Storage type of the weights.
    """
    tied = bool(model.config.text_config.tie_word_embeddings)

    def fill(folder: Path) -> None:
        state = {}
        for name, tensor in model.state_dict().items():
            if tied and name == "lm_head.weight":
                continue
            state[disk_name(name)] = tensor.detach().to("cpu", dtype).contiguous().clone()
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        model.config.architectures = [type(model).__name__]
        model.config.dtype = dtype
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
        processor.save_pretrained(folder)

    write_folder(out, fill)


def disk_name(name: str) -> str:
    """Name on disk of a parameter of `LlavaForConditionalGeneration`."""
    for memory, disk in _DISK_NAMES:
        if name.startswith(memory):
            return disk + name.removeprefix(memory)
    return name


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
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
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


def load_checkpoint(folder: str | Path, dtype: torch.dtype = torch.float32) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load an image-text model and its processor from a folder or by hub name.

    Returns:
        The model in evaluation mode on the CPU, and its processor.

    Raises:
        ModelError: The folder is missing, incomplete, or holds another kind of model.
    """
    name = str(folder)
    with reading(name, "a model", "Give a folder written by geotempo compose or train, or a hub name"):
        config = AutoConfig.from_pretrained(name)
        if not hasattr(config, "vision_config") or not hasattr(config, "text_config"):
            raise ModelError(f"{name!r} is a {config.model_type!r} model; an image-text model (LLaVA) is needed. "
                             "Build one with: geotempo compose")
        model, report = AutoModelForImageTextToText.from_pretrained(name, dtype=dtype, output_loading_info=True)
        processor = AutoProcessor.from_pretrained(name)
    refuse_misfit(report, name)
    return model.eval(), processor
