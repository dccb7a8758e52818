"""Every base at tiny size: sequence prompt -> tokens -> answer, marks on the answer, coordinates, budgets, errors."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from transformers.utils import is_torchvision_available

from geotempo.model import answer, budget
from geotempo.model.bases import BASES, convention_of, lora_modules, module_of, set_pixel_budget
from geotempo.model.checkpoints import load_checkpoint, load_processor, save_checkpoint
from geotempo.model.convention import TEOCHAT, Convention, PixelGrid
from geotempo.model.errors import ModelError
from geotempo.model.geometry import Box
from geotempo.model.records import Region
from tests.tiny_bases import NEEDS_TORCHVISION, write

WITHOUT = "this base's processor needs torchvision, which is not installed (the vLLM environment has it)"
FAMILIES = [pytest.param(name, marks=pytest.mark.skipif(BASES[name].needs_torchvision and not is_torchvision_available(), reason=WITHOUT))
            for name in BASES]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory):
    """Folder of each family, written once."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = write(family, tmp_path_factory.mktemp("bases") / family)
        return made[family]

    return folder


def sequence(count: int, question: str = "what changed?", size: tuple[int, int] = (96, 96)) -> list[dict]:
    parts: list[dict] = []
    for k in range(1, count + 1):
        parts += [{"type": "text", "text": f"Image {k} (20{10 + k}): "},
                  {"type": "image", "image": Image.new("RGB", size, (20 * k, 90, 160 - 9 * k))}]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": f"\n{question}"}]}]


def words(text: str) -> list[dict]:
    return [{"type": "text", "text": text}]


def encode(processor, messages: list[dict], **options) -> dict:
    return processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", **options)


@pytest.mark.parametrize("family", FAMILIES)
def test_images_stay_where_they_stand_and_a_sequence_is_answered(family: str, folders) -> None:
    model, processor = load_checkpoint(folders(family))
    messages = sequence(3)
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    image = re.escape(BASES[family].image_text)
    assert re.search(rf"Image 1 \(2011\): {image}Image 2 \(2012\): {image}Image 3 \(2013\): {image}\nwhat changed\?", text)
    inputs = encode(processor, messages, add_generation_prompt=True)
    counted = budget.tokens_per_image(processor, [(96, 96)] * 3)
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == sum(counted)
    answers = [model.generate(**encode(processor, sequence(n), add_generation_prompt=True), max_new_tokens=8, do_sample=False)
               for n in (1, 3)]
    assert answers[0][0, -8:].tolist() != answers[1][0, -8:].tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_template_writes_what_the_bases_own_writes(family: str, folders) -> None:
    _, processor = load_checkpoint(folders(family))
    own = (folders(family) / "chat_template.jinja").read_text()
    talk = [{"role": "user", "content": words("first?")}, {"role": "assistant", "content": words("one")},
            {"role": "user", "content": words("second?")}]
    asked = [message for message in talk[:1]]
    system = {"role": "system", "content": words("Be brief. ")}
    for messages in (asked, [system, *asked]):
        ours, theirs = (processor.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)
                        for template in (processor.chat_template, own))
        assert ours == theirs
    ours, theirs = (processor.apply_chat_template(talk, chat_template=template, tokenize=False, add_generation_prompt=True)
                    for template in (processor.chat_template, own))
    # LLaVA-1.5's own template forgets the end of the answer; ours writes it.
    assert "".join(ours.replace("</s>", "").split()) == "".join(theirs.replace("</s>", "").split())


@pytest.mark.parametrize("family", FAMILIES)
def test_only_answers_and_their_ends_are_marked(family: str, folders) -> None:
    model, processor = load_checkpoint(folders(family))
    talk = [*sequence(2), {"role": "assistant", "content": words("a new building")}, {"role": "user", "content": words("where?")},
            {"role": "assistant", "content": words("in Image 2")}]
    whole = encode(processor, talk, return_assistant_tokens_mask=True)
    marked = whole["input_ids"][0][torch.as_tensor(whole["assistant_masks"])[0].bool()]
    stop = processor.tokenizer.convert_ids_to_tokens(model.generation_config.eos_token_id)
    said = [part.strip() for part in processor.tokenizer.decode(marked).split(stop)]
    assert said == ["a new building", "in Image 2", ""]
    prompt = encode(processor, talk[:1], add_generation_prompt=True)["input_ids"][0]
    assert torch.equal(whole["input_ids"][0][: len(prompt)], prompt)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_base_keeps_template_budget_and_weights(family: str, folders, tmp_path: Path) -> None:
    model, processor = load_checkpoint(folders(family))
    save_checkpoint(model, processor, tmp_path / "saved")
    again, processor2 = load_checkpoint(tmp_path / "saved")
    assert type(processor2).__name__ == type(processor).__name__
    assert processor2.chat_template == processor.chat_template
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert budget.tokens_per_image(processor2, [(96, 64)]) == budget.tokens_per_image(processor, [(96, 64)])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(96, 96), (300, 120), (33, 500), (1024, 1024)])
def test_coordinates_survive_resizing(family: str, size: tuple[int, int], folders) -> None:
    model, processor = load_checkpoint(folders(family))
    frame = convention_of(model.config, processor).frame(*size)
    box = Box(0.3 * size[0], 0.2 * size[1], 0.7 * size[0], 0.6 * size[1])
    (back,) = answer.parse(answer.format([Region(1, box)], [frame]), [frame]).regions or ()
    cell = max(size) / frame.grid
    assert isinstance(back.geometry, Box)
    assert all(abs(a - b) <= cell for a, b in zip(back.geometry.as_tuple(), box.as_tuple(), strict=True))
    if BASES[family].coordinates == "pixels":  # a number is a pixel of what the processor makes of the padded square
        made = encode(processor, sequence(1, size=(max(size),) * 2))
        assert frame.grid == int(made["image_grid_thw"][0, 1]) * processor.image_processor.patch_size


@given(st.integers(1, 5000), st.sampled_from([28, 32]), st.integers(28 * 28, 3 * 10**6))
def test_the_pixel_grid_is_qwens_own_resize(side: int, factor: int, most: int) -> None:
    least = min(56 * 56, most)
    expected = smart_resize(side, side, factor, least, most)
    assert (PixelGrid(factor, least, most).side(side),) * 2 == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pixel_budget_means_fewer_tokens_or_an_error(family: str, folders) -> None:
    model, processor = load_checkpoint(folders(family))
    before = budget.tokens_per_image(processor, [(1000, 1000)])[0]
    if BASES[family].resolution == "fixed":
        with pytest.raises(ModelError, match="fixed input"):
            set_pixel_budget(model.config, processor, 64 * 64)
        return
    set_pixel_budget(model.config, processor, 64 * 128)
    after = budget.tokens_per_image(processor, [(1000, 1000)])[0]
    assert after < before
    inputs = encode(processor, sequence(2, size=(1000, 1000)), add_generation_prompt=True)
    assert int((inputs["input_ids"] == model.config.image_token_id).sum()) == 2 * after
    model.generate(**inputs, max_new_tokens=2, do_sample=False)
    with pytest.raises(ModelError, match="below"):
        set_pixel_budget(model.config, processor, 10)


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_go_on_the_llm_only(family: str, folders) -> None:
    model, _ = load_checkpoint(folders(family))
    pattern = re.compile(lora_modules(BASES[family]))
    hit = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and pattern.fullmatch(name)]
    assert len(hit) == 2 * 7
    assert all(module_of(f"{name}.weight") == "language_model" for name in hit)
    assert {module_of(name) for name, _ in model.named_parameters()} == {"vision_tower", "projector", "language_model"}


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed")
@pytest.mark.parametrize("family", NEEDS_TORCHVISION)
def test_without_torchvision_one_line_says_so(family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "{family}"}}')
    with pytest.raises(ModelError, match=f"{BASES[family].name} model, whose image processor needs torchvision") as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_template_that_is_not_made_of_turns_is_refused(folders, tmp_path: Path) -> None:
    model, processor = load_checkpoint(folders("llava"))
    processor.chat_template = "{% for m in messages %}{{ loop.revindex }}{{ m['content'][0]['text'] }}{% endfor %}:"
    save_checkpoint(model, processor, tmp_path / "odd")
    with pytest.raises(ModelError, match="not made of turns"):
        load_checkpoint(tmp_path / "odd")
    (tmp_path / "odd" / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match="no chat template"):
        load_checkpoint(tmp_path / "odd")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_template_of_an_unchanged_base_can_be_had_without_its_weights(family: str, folders, tmp_path: Path) -> None:
    folder = shutil.copytree(folders(family), tmp_path / "light")
    (folder / "model.safetensors").unlink()
    (folder / "generation_config.json").unlink()
    config, processor = load_processor(folder)
    assert processor.chat_template == load_checkpoint(folders(family))[1].chat_template
    assert convention_of(config, processor) == convention_of(*(load_processor(folders(family))))


def test_conventions_go_to_json_and_back() -> None:
    for convention in (Convention(), TEOCHAT, Convention(pixels=PixelGrid(28, 3136, 200704))):
        assert Convention.from_json(convention.to_json()) == convention
