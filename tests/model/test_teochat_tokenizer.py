"""The imported tokenizer and chat template give the ids and label masks of the original code."""

import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoProcessor, AutoTokenizer, PreTrainedTokenizerFast

from geotempo.model import teochat_import
from geotempo.model.errors import ModelError
from geotempo.model.teochat_images import register
from geotempo.model.teochat_import import ImportPlan, import_teochat
from geotempo.model.teochat_tokenizer import build_tokenizer
from tests.model.teochat_pieces import fixture_cases, known_pieces, model_bytes
from tests.teochat_layout import (
    Sizes,
    model_shapes,
    random_tensors,
    text_config,
    tokenizer_bytes,
    tower_shapes,
    vision_config,
    write_checkpoint,
)

sentencepiece = pytest.importorskip("sentencepiece", reason='not installed: pip install "geotempo[teochat]"')

FIXTURE = Path(__file__).parents[2].parent / "shared" / "fixtures" / "teochat"
needs_fixture = pytest.mark.skipif(not FIXTURE.is_dir(), reason=f"no parity fixture at {FIXTURE}")
REAL = os.environ.get("GEOTEMPO_LLAMA_TOKENIZER")
SYSTEM = ("A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
          "detailed, and polite answers to the user's questions. ")
SMALL = Sizes(hidden=16, mlp=16, layers=1, heads=1, vocab=32000, vision_hidden=16, vision_mlp=16, vision_layers=2,
              vision_heads=1, patch=112)
PATCHES = 4
TOY = tokenizer_bytes(480)


def rounds(case: dict[str, Any]) -> list[dict[str, Any]]:
    """The fixture's training conversation as chat messages, images as parts."""
    roles = {"human": "user", "gpt": "assistant"}
    return [{"role": roles[turn["from"]], "content": parts(turn["value"])} for turn in case["train_text"]]


def parts(text: str) -> list[dict[str, Any]]:
    pieces = re.split("(<image>)", text)
    return [{"type": "image"} if piece == "<image>" else {"type": "text", "text": piece} for piece in pieces if piece]


def conversation(case: dict[str, Any]) -> str:
    """The training text as the original assembles it (`vicuna_v1`)."""
    words = {"human": "USER: {} ", "gpt": "ASSISTANT: {}</s>"}
    return SYSTEM + "".join(words[turn["from"]].format(turn["value"]) for turn in case["train_text"])


def collapsed(values: list[int], ids: list[int], run: int) -> list[int]:
    """One value for each run of `run` image tokens."""
    out, i = [], 0
    while i < len(ids):
        step = run if ids[i] == 3 else 1
        assert ids[i : i + step] == [ids[i]] * step
        out.append(values[i])
        i += step
    return out


def import_with(tokenizer: bytes, legacy: bool, root: Path) -> Path:
    """Import a small model with a given 32,000-piece tokenizer."""
    tower = {f"model.image_tower.image_tower.{name}": shape for name, shape in tower_shapes(SMALL).items()}
    weights = random_tensors(model_shapes(SMALL) | tower, 0)
    config = text_config(SMALL) | {"vision_config": vision_config(SMALL)}
    source = write_checkpoint(root / f"source-{legacy}", weights, config, tokenizer, legacy=None if legacy else False)
    import_teochat(ImportPlan(source, root / f"out-{legacy}"))
    return root / f"out-{legacy}"


@pytest.fixture(scope="module", params=["made", "real"])
def imported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Folders by `legacy`, with a made vocabulary and with Llama's own."""
    if not FIXTURE.is_dir():
        pytest.skip(f"no parity fixture at {FIXTURE}")
    if request.param == "real" and not REAL:
        pytest.skip("the environment variable GEOTEMPO_LLAMA_TOKENIZER does not name Llama's tokenizer.model")
    case = fixture_cases(FIXTURE)
    texts = {"infer_ids": case["infer_prompt"], "train_input_ids": conversation(case)}
    model = Path(str(REAL)).read_bytes() if request.param == "real" else model_bytes(known_pieces(case, texts))
    root = tmp_path_factory.mktemp(request.param)
    return {legacy: import_with(model, legacy, root) for legacy in (True, False)}


@pytest.mark.parametrize("legacy", [True, False])
def test_ids_of_the_fixture(imported: dict[bool, Path], legacy: bool) -> None:
    case = fixture_cases(FIXTURE)
    tokenizer = AutoTokenizer.from_pretrained(imported[legacy])
    for text, key in ((case["infer_prompt"], "infer_ids"), (conversation(case), "train_input_ids")):
        expected = [3 if i == -200 else i for i in case[f"{key}_legacy_{legacy}"]]
        assert tokenizer(text).input_ids == expected
        assert tokenizer("<s>" + text, add_special_tokens=False).input_ids == expected


@pytest.mark.parametrize("legacy", [True, False])
def test_chat_template_gives_ids_and_label_mask_of_the_fixture(imported: dict[bool, Path], legacy: bool) -> None:
    from PIL import Image

    register()
    case = fixture_cases(FIXTURE)
    processor = AutoProcessor.from_pretrained(imported[legacy])
    pictures = iter([Image.open(FIXTURE / f"image{i}.png") for i in (1, 2)])
    turns = rounds(case)
    for part in (part for turn in turns for part in turn["content"] if part["type"] == "image"):
        part["image"] = next(pictures)
    out = processor.apply_chat_template(turns, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    ids, mask = out["input_ids"][0], out["assistant_masks"][0]
    expected = case[f"train_input_ids_legacy_{legacy}"]
    assert collapsed(ids, ids, PATCHES) == [3 if i == -200 else i for i in expected]
    labels = [i if supervised else -100 for i, supervised in zip(ids, mask, strict=True)]
    assert collapsed(labels, ids, PATCHES) == case[f"train_labels_legacy_{legacy}"]


@pytest.mark.parametrize("legacy", [True, False])
def test_generation_prompt_of_the_fixture(imported: dict[bool, Path], legacy: bool) -> None:
    case = fixture_cases(FIXTURE)
    tokenizer = AutoTokenizer.from_pretrained(imported[legacy])
    template = (imported[legacy] / "chat_template.jinja").read_text(encoding="utf-8")
    asked = case["infer_prompt"].removeprefix(SYSTEM + "USER: ").removesuffix(" ASSISTANT:")
    for content in (asked, parts(asked)):
        for system in ([], [{"role": "system", "content": SYSTEM.strip()}]):
            turns = [*system, {"role": "user", "content": content}]
            text = tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, add_generation_prompt=True)
            assert text == "<s>" + case["infer_prompt"]
    other = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    text = tokenizer.apply_chat_template(other, chat_template=template, tokenize=False, add_generation_prompt=True)
    assert text == "<s>Be brief. USER: Why? ASSISTANT:"


def original_ids(pieces: Any, text: str, legacy: bool) -> list[int]:
    """`tokenizer_image_token` with the slow LlamaTokenizer of transformers 4.31, by its source; `<image>` is 3."""
    ids: list[int] = []
    for n, chunk in enumerate(text.split("<image>")):
        ids += [3] * (n > 0)
        for k, part in enumerate(chunk.split("</s>")):
            ids += [2] * (k > 0)
            found = pieces.encode(part, out_type=str)
            if not legacy and k > 0 and part and not part.startswith((" ", "▁")) and found[0].startswith("▁"):
                found = [piece for piece in (found[0][1:], *found[1:]) if piece]
            ids += pieces.piece_to_id(found)
    return ids


ANY = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
TEXT = st.text(st.one_of(st.sampled_from(" \n▁abet.,:[]0123=-<>'"), ANY), max_size=12)
WORDS = st.sampled_from(["building", "  ", "\n\n", "USER:", " ASSISTANT:", "Image 1: ", "aaaaaaaa", "中文", "🙂", "<0x0A>",
                         "[0, 8, 49, 53]"])
# `</s>` is followed by what the chat template can put there, or by a blank, or by nothing.
SEGMENTS = st.lists(st.one_of(TEXT, WORDS, st.sampled_from(["<image>", "<image>", "</s>USER: ", "</s> "])), max_size=8)
TOKENIZERS: dict[tuple[bytes, bool], PreTrainedTokenizerFast] = {}


def tokenizer_of(model: bytes, legacy: bool, tmp: Path) -> PreTrainedTokenizerFast:
    if (model, legacy) not in TOKENIZERS:
        (tmp / "tokenizer.model").write_bytes(model)
        TOKENIZERS[model, legacy] = build_tokenizer(tmp / "tokenizer.model", legacy)
    return TOKENIZERS[model, legacy]


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("vocabulary", ["toy", "real"])
def test_any_text_is_cut_as_the_original_cuts_it(vocabulary: str, legacy: bool, tmp_path: Path) -> None:
    if vocabulary == "real" and not REAL:
        pytest.skip("the environment variable GEOTEMPO_LLAMA_TOKENIZER does not name Llama's tokenizer.model")
    model = Path(str(REAL)).read_bytes() if vocabulary == "real" else TOY
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokenizer = tokenizer_of(model, legacy, tmp_path)

    @settings(max_examples=1000, deadline=None)
    @given(SEGMENTS)
    def check(segments: list[str]) -> None:
        text = "".join(segments)
        if any(special in text.replace("<image>", "") for special in ("<image>", "<s>", "<unk>")) or \
                re.search("</s>(?!USER: | |$)", text):
            return  # specials that chance put together
        assert tokenizer(text, add_special_tokens=False).input_ids == original_ids(pieces, text, legacy), text

    check()


def original_labels(pieces: Any, text: str) -> list[int]:
    """`preprocess_v1` for a text without images, by its source (LLaVA's; the BOS of a round stands for its `</s>`)."""
    def tokenised(part: str) -> list[int]:
        return [1, *original_ids(pieces, part, legacy=True)]

    ids = tokenised(text)
    labels, at = list(ids), 1
    for part in text.split("</s>")[:-1]:
        instruction = part.split(" ASSISTANT: ")[0] + " ASSISTANT: "
        masked = at + len(tokenised(instruction)) - 2
        labels[at:masked] = [-100] * (masked - at)
        at += len(tokenised(part))
    assert at == len(ids), "the original would mask everything"
    return [-100, *labels[1:]]


def test_label_mask_of_answers_that_begin_with_a_lone_blank(tmp_path: Path) -> None:
    """The blank before a digit is a token of its own, and supervised."""
    (tmp_path / "tokenizer.model").write_bytes(TOY)
    pieces, tokenizer = sentencepiece.SentencePieceProcessor(model_proto=TOY), build_tokenizer(tmp_path / "tokenizer.model", True)
    template = (Path(teochat_import.__file__).parent / "teochat_template.jinja").read_text(encoding="utf-8")
    turns = [("user", "How many?"), ("assistant", "3 buildings."), ("user", "Which?"), ("assistant", "0"), ("user", "Why?"),
             ("assistant", "No.")]
    out = tokenizer.apply_chat_template([{"role": role, "content": text} for role, text in turns], chat_template=template,
                                        tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    words = {"user": "USER: {} ", "assistant": "ASSISTANT: {}</s>"}
    expected = original_labels(pieces, SYSTEM + "".join(words[role].format(text) for role, text in turns))
    found = [i if supervised else -100 for i, supervised in zip(out["input_ids"], out["assistant_masks"], strict=True)]
    assert found == expected
    assert pieces.id_to_piece(next(i for i in found if i != -100)) == "▁"


def test_decoding_gives_the_text_back(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(TOY, True, tmp_path)
    for text in ("[3, 10, 27, 44], [60, 5, 88, 19].", "Yes,  two blanks\nand 中文 🙂"):
        assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_image_takes_the_place_of_nul_and_the_vocabulary_keeps_its_size(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(TOY, True, tmp_path)
    assert len(tokenizer) == tokenizer.vocab_size == 480
    assert tokenizer.convert_tokens_to_ids("<image>") == 3
    assert "<0x00>" not in tokenizer.get_vocab()
    assert tokenizer("\0").input_ids[-1] == tokenizer.unk_token_id  # not the image


@pytest.mark.parametrize(("settings_", "message"), [
    ({"byte_fallback": False}, "byte fallback"),
    ({"normalization_rule_name": "nmt_nfkc"}, "does not tokenise as a Llama vocabulary"),
    ({"remove_extra_whitespaces": True}, "does not tokenise as a Llama vocabulary"),
    ({"add_dummy_prefix": False}, "does not tokenise as a Llama vocabulary"),
    ({"model_type": "unigram"}, "does not tokenise as a Llama vocabulary"),
])
def test_another_kind_of_vocabulary_is_refused(settings_: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_bytes(480, **settings_))
    with pytest.raises(ModelError, match=message):
        build_tokenizer(tmp_path / "tokenizer.model", True)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match="cannot read"):
        build_tokenizer(tmp_path / "tokenizer.model", True)
