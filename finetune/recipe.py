"""Recipes: one YAML file says what is trained, on what, and how.

Four sections: `model`, `data`, `lora` (optional) and `train`; `train` goes unchanged to `transformers.TrainingArguments`,
so its keys and their meaning are documented there. Unknown keys are refused with the nearest known name.
"""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml

from geotempo.data_builders.render import Grids
from geotempo.data_builders.sample import TASKS
from geotempo.model.bases import LORA_TARGETS
from geotempo.model.errors import ConfigError

T = TypeVar("T")
_PLAIN: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,), bool: (bool,)}

SHOWN = 20  # keys that an error message lists at most
DTYPES = ("float32", "bfloat16", "float16")
ATTENTION = ("auto", "sdpa", "eager", "flash_attention_2")
QUANTIZE = ("nf4", "int8")
MODULES = ("vision_tower", "projector", "language_model")


def check_keys(given: Mapping[str, Any], allowed: Iterable[str], where: str) -> None:
    """Refuse unknown keys.

    Raises:
        ConfigError: Names the first unknown key, the nearest allowed one and up to `SHOWN` allowed ones.
    """
    names = list(allowed)
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            some = names if len(names) <= SHOWN else [*names[:SHOWN], f"and {len(names) - SHOWN} more"]
            raise ConfigError(f"unknown key {key!r} in {where}; {hint}allowed: {', '.join(some)}")


def read_section(kind: type[T], given: Any, where: str) -> T:
    """Build a section, a dataclass, from YAML.

    Raises:
        ConfigError: Not a mapping, an unknown key, a missing key or a wrong value.
    """
    if not isinstance(given, Mapping):
        raise ConfigError(f"section {where!r} must hold keys and values, got {given!r}")
    known = dataclasses.fields(kind)  # type: ignore[arg-type]
    check_keys(given, [f.name for f in known], where)
    needed = [f.name for f in known if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in needed if name not in given]
    if missing:
        raise ConfigError(f"section {where!r} lacks the key {missing[0]!r}")
    for entry in known:
        value, plain = given.get(entry.name), _PLAIN.get(entry.type)
        if plain and entry.name in given and (isinstance(value, bool) != (plain == (bool,)) or not isinstance(value, plain)):
            raise ConfigError(f"{where}.{entry.name} must be of type {plain[-1].__name__}, got {value!r}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in given.items()})


@dataclass(frozen=True)
class ModelSection:
    """What is trained.

    Attributes:
        base: Folder or hub name of an image-text model; or
        compose: fields of `geotempo.model.compose.Composition`, to start from parts or from random weights.
        freeze: Any of `MODULES`.
        learning_rates: Learning rate by module, where it differs from `train.learning_rate`.
        save_dtype: Storage type of the final checkpoint's weights, one of `DTYPES`.
        max_pixels: Most pixels of one image as the model sees it, where the base allows a choice; None takes the base's
            row in `geotempo.model.bases.BASES`.
        attention: One of `ATTENTION`; auto takes flash-attn where it is installed, on a GPU and in 16 bit, else PyTorch's sdpa.
        dtype: Type of the frozen weights in memory, one of `DTYPES` or auto: bfloat16 for LoRA with `train.bf16`, else float32.
            What is trained is always float32.
        quantize: QLoRA (Dettmers et al., arXiv 2305.14314): the LLM's frozen linear layers as `nf4` (4 bit, with double
            quantisation) or `int8` by bitsandbytes; None keeps them as they are.
        vision_blocks: Train the last blocks of the vision encoder, so many of them, whatever else of it is frozen; their rate is
            `learning_rates.vision_tower`.
    """

    base: str | None = None
    compose: dict[str, Any] | None = None
    freeze: tuple[str, ...] = ()
    learning_rates: dict[str, float] = field(default_factory=dict)
    save_dtype: str = "float32"
    max_pixels: int | None = None
    attention: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None
    vision_blocks: int = 0

    def __post_init__(self) -> None:
        if (self.base is None) == (self.compose is None):
            raise ConfigError("section 'model' needs exactly one of base (a folder or hub name) and compose (parts)")
        check_keys(dict.fromkeys(self.freeze), MODULES, "model.freeze")
        check_keys(self.learning_rates, MODULES, "model.learning_rates")
        for name, allowed in (("save_dtype", DTYPES), ("dtype", ("auto", *DTYPES)), ("attention", ATTENTION),
                              ("quantize", (None, *QUANTIZE))):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"model.{name} is {getattr(self, name)!r}; allowed: {', '.join(str(value) for value in allowed)}")
        if self.quantize and self.base is None:
            raise ConfigError("model.quantize needs model.base; a composition of random weights has nothing to keep")
        if self.vision_blocks < 0:
            raise ConfigError(f"model.vision_blocks counts blocks from the encoder's end, got {self.vision_blocks}")
        if self.vision_blocks and "vision_tower" in self.freeze:
            raise ConfigError("model.vision_blocks trains the last blocks of the vision tower and freezes the others; take "
                              "vision_tower out of model.freeze")


@dataclass(frozen=True)
class DataSection:
    """Which samples.

    Attributes:
        store: Folder written by `geotempo build`, or a list of them.
        split: Split of the store.
        tasks: Tasks to keep; None keeps all.
        images: Keep only samples whose id starts with one of these prefixes up to `#` (`dataset/split/original-id`).
        max_regions: Leave out samples with more regions.
        points: Answers carry two interior points per region (for masks).
        grids: Which regions carry a 16 x 16 grid of their box: none, areas (`render.area_like`), or all that are more
            than a box.
        questions: Other wordings by task, one drawn anew for each sample and epoch in place of the stored question.
        references: Share of the draws, 0 to 1, in which a sample that has several references answers with any of them instead of
            the first. All sentences are learned; below 1 the first stays the most frequent, so that greedy decoding settles on
            one where several say the same.
        augment: Arguments of `geotempo.finetune.augment.Augment`.
        evaluate: Stores that the model is to be evaluated on: training that shares images, places or events with their val
            and test samples is refused. None takes what the training stores themselves hold as val and test; [] nothing.
        allow_leaks: Train all the same; the model card says so.
        max_tokens: Longest sample in tokens; longer ones are set aside and named in `set_aside.jsonl`, never cut. None takes
            what the model can take.
        pack_tokens: Pack samples into rows of up to so many tokens instead of padding them (`geotempo.finetune.packing`);
            None pads. A batch is then `train.per_device_train_batch_size` packs.
        pack_images: Most images in a pack, which bounds the memory of the vision encoder; None for any number.
        eval_samples: Held-out samples (split val of `evaluate` or of the stores) on which the loss is measured where
            `train.eval_strategy` asks for it.
        watch: Held-out samples that are answered at each evaluation and shown on a page.
    """

    store: str | tuple[str, ...]
    split: str = "train"
    tasks: tuple[str, ...] | None = None
    images: tuple[str, ...] | None = None
    max_regions: int | None = None
    points: bool = False
    grids: Grids = "none"
    questions: dict[str, list[str]] = field(default_factory=dict)
    references: float = 0.0
    augment: dict[str, Any] = field(default_factory=dict)
    evaluate: tuple[str, ...] | None = None
    allow_leaks: bool = False
    max_tokens: int | None = None
    pack_tokens: int | None = None
    pack_images: int | None = None
    eval_samples: int = 200
    watch: int = 8

    @property
    def stores(self) -> tuple[str, ...]:
        """All stores, also where one was given."""
        return (self.store,) if isinstance(self.store, str) else tuple(self.store)

    def __post_init__(self) -> None:
        if not self.stores:
            raise ConfigError("data.store needs one or more folders written by geotempo build")
        check_keys(self.questions, TASKS, "data.questions")
        if self.evaluate is not None and not isinstance(self.evaluate, tuple):
            raise ConfigError(f"data.evaluate must be a list of stores, [] for none, got {self.evaluate!r}")
        if not isinstance(self.allow_leaks, bool):
            raise ConfigError(f"data.allow_leaks must be true or false, got {self.allow_leaks!r}")
        if not 0 <= self.references <= 1:
            raise ConfigError(f"data.references is a share, 0 to 1, got {self.references}")
        if self.grids not in get_args(Grids):
            raise ConfigError(f"data.grids is {self.grids!r}; allowed: {', '.join(get_args(Grids))}")
        for name, least in (("max_tokens", 1), ("pack_tokens", 1), ("pack_images", 1), ("eval_samples", 1), ("watch", 0)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= least):
                raise ConfigError(f"data.{name} must be a whole number of at least {least}, got {value!r}")
        if self.pack_images and not self.pack_tokens:
            raise ConfigError("data.pack_images bounds packs, which data.pack_tokens asks for; set both or none")
        if not all(isinstance(texts, list) and texts for texts in self.questions.values()):
            raise ConfigError("data.questions needs a list of one or more wordings for each task")


@dataclass(frozen=True)
class LoraSection:
    """LoRA on the linear layers of the LLM (Hu et al., arXiv 2106.09685).

    Attributes:
        r: Rank.
        alpha: Scale; the update is multiplied by alpha / r.
        dropout: Dropout on the adapter's input, 0 to 1.
        targets: Names of linear layers inside the LLM.
        projector: Train the projector in full beside the adapters, as TEOChat did. No engine serves a projector from an
            adapter, so the result is the merged checkpoint only.
        embeddings: Train the token embeddings, and the output layer where it has weights of its own, in full beside the adapters:
            for bases whose vocabulary holds tokens that they never met. The result is the merged checkpoint only.
        rslora: Scale by alpha / sqrt(r) (Kalajdzievski, arXiv 2312.03732), for ranks of 64 and more.
        dora: Learn magnitude and direction apart (Liu et al., arXiv 2402.09353). vLLM serves it merged only.
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.05
    targets: tuple[str, ...] = LORA_TARGETS
    projector: bool = False
    embeddings: bool = False
    rslora: bool = False
    dora: bool = False

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ConfigError(f"lora.r must be 1 or more, got {self.r}")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout must be from 0 to below 1, got {self.dropout}")


@dataclass(frozen=True)
class Recipe:
    """A checked recipe; `train` is checked by `TrainingArguments` itself."""

    model: ModelSection
    data: DataSection
    train: dict[str, Any]
    lora: LoraSection | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionary, for the copy beside a checkpoint and its card; access tokens are left out of it."""
        given = dataclasses.asdict(self)
        given["train"] = {key: f"<{key.upper()}>" if key.endswith("_token") else value for key, value in self.train.items()}
        return given


class _Loader(yaml.SafeLoader):
    """Safe, and 1e-4 is a number, as YAML 1.2 and everybody has it; YAML 1.1 reads it as text."""


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789"))


def read_yaml(path: Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """Read a recipe file and apply `section.key=value` overrides, values in YAML.

    Raises:
        ConfigError: The file is missing, is no YAML mapping, or an override has no '='.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {str(path)!r}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{str(path)!r} is not valid YAML: {error}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{str(path)!r} must hold the sections model, data and train")
    for override in overrides:
        _apply(raw, override)
    return raw


def _apply(raw: dict[str, Any], override: str) -> None:
    name, equals, value = override.partition("=")
    if not equals:
        raise ConfigError(f"{override!r} is no override; write section.key=value, e.g. train.learning_rate=1e-4")
    *sections, key = name.split(".")
    target = raw
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"the override {override!r} goes into {section!r}, which holds no keys")
    try:
        target[key] = yaml.load(value, _Loader)
    except yaml.YAMLError:
        raise ConfigError(f"the value of the override {override!r} is not valid YAML") from None


def parse_recipe(raw: Mapping[str, Any]) -> Recipe:
    """Check a recipe's sections and keys.

    Raises:
        ConfigError: Something is unknown, missing or contradictory.
    """
    check_keys(raw, ("model", "data", "lora", "train"), "the recipe")
    missing = [section for section in ("model", "data", "train") if section not in raw]
    if missing:
        raise ConfigError(f"the recipe lacks the section {missing[0]!r}; needed are model, data and train")
    lora = raw.get("lora")
    train = raw["train"]
    if not isinstance(train, Mapping) or "output_dir" not in train:
        raise ConfigError("section 'train' needs output_dir, the folder for checkpoints and the final model")
    if lora is None and isinstance(raw["model"], Mapping) and raw["model"].get("quantize"):
        raise ConfigError("model.quantize freezes the quantised weights, so a section lora is needed beside it")
    return Recipe(
        read_section(ModelSection, raw["model"], "model"),
        read_section(DataSection, raw["data"], "data"),
        dict(train),
        read_section(LoraSection, lora, "lora") if lora is not None else None,
    )
