"""The from-scratch tokenizer writes any text and spells numbers digit by digit."""

from hypothesis import given
from hypothesis import strategies as st

from geotempo.model.tokenizer import GRAMMAR_PIECES, IMAGE, train_tokenizer

TEXTS = ["the new building is next to the road", "a road has been added in 2021", "two villas appear"] * 20
TOKENIZER = train_tokenizer(TEXTS, 400)


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_comes_back(text: str) -> None:
    if any(special in text for special in ("<s>", "</s>", "<pad>", IMAGE)):
        return
    ids = TOKENIZER(text, add_special_tokens=False).input_ids
    assert TOKENIZER.decode(ids) == text


def test_digits_stand_alone_and_boilerplate_is_one_token() -> None:
    text = '[{"image":2,"bbox_2d":[12,340,1000,7],"label":"house"}]'
    tokens = TOKENIZER.tokenize(text)
    assert tokens[:8] == ['[{"image":', "2", ',"bbox_2d":[', "1", "2", ",", "3", "4"]
    assert '],"label":"' in tokens
    assert all(not token.isdigit() or len(token) == 1 for token in tokens)


def test_every_byte_and_piece_is_in_the_vocabulary() -> None:
    vocabulary = TOKENIZER.get_vocab()
    assert all(piece in vocabulary for piece in GRAMMAR_PIECES)
    assert len(TOKENIZER(bytes(range(256)).decode("latin-1")).input_ids) >= 256


def test_equal_texts_give_equal_tokenizers() -> None:
    assert train_tokenizer(TEXTS, 400).backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()
