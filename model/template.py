r"""A chat template for any base: images where they stand, and marks around what is supervised.

Two things are missing from the templates that bases bring. LLaVA's put all images before all text, so that `Image 2
(2021-08-03): <image>` is torn apart; and most lack `{% generation %}`, without which nobody can say which tokens
are the answer. So the base's own template is asked, with words that stand for the texts, what it writes around the
turns of a conversation, and a template is built from that. It is checked against the base's own on whole
conversations, so a template that this cannot describe is refused and not bent.

The result goes into the saved checkpoint as `chat_template.jinja`; for an unchanged base behind vLLM give it with
`--chat-template`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from geotempo.model.errors import ModelError

Turns = Sequence[tuple[str, str]]
Renderer = Callable[[Turns, bool], str]

_SYSTEM, _ASKED, _ANSWERED, _AGAIN, _LAST = "Sentinelsystem", "Sentinelasked", "Sentinelanswered", "Sentinelagain", "Sentinellast"

# The answer's span holds whatever the base puts between the generation prompt and the answer (often one blank) and the
# end-of-turn token: both are what the model has to write.
_JINJA = """\
{%- macro content(parts) -%}
    {%- if parts is string -%}{{- parts -}}
    {%- else -%}
        {%- for part in parts -%}
            {%- if part['type'] == 'text' -%}{{- part['text'] -}}{%- else -%}{{- IMAGE -}}{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- for message in messages -%}
    {%- if message['role'] == 'system' -%}
        {{- BEFORE_SYSTEM -}}{{- content(message['content']) -}}
    {%- elif message['role'] == 'user' -%}
        {%- if loop.first -%}{{- FIRST -}}
        {%- elif loop.previtem['role'] == 'system' -%}{{- AFTER_SYSTEM -}}
        {%- else -%}{{- BETWEEN -}}{%- endif -%}
        {{- content(message['content']) -}}
    {%- else -%}
        {{- PROMPT -}}
        {%- generation -%}{{- LEAD -}}{{- content(message['content']) -}}{{- STOP -}}{%- endgeneration -%}
        {%- if loop.last -%}{{- END -}}{%- endif -%}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- PROMPT -}}{%- endif -%}
"""


@dataclass(frozen=True)
class Turn:
    """What a template writes around the texts of a conversation.

    Attributes:
        first: Before the first question, where no system message is given (a default one included).
        before_system: Before a system message; None where the template takes none.
        after_system: Between a system message and the first question.
        prompt: After a question: what the model goes on from.
        lead: Between that and the answer.
        stop: After the answer: the end-of-turn token.
        end: After it, where the conversation ends there.
        between: After it, up to the next question.
    """

    first: str
    before_system: str | None
    after_system: str
    prompt: str
    lead: str
    stop: str
    end: str
    between: str


def interleaving_template(render: Renderer, image_text: str, stop_tokens: Sequence[str], bos: str, name: str) -> str:
    """A Jinja chat template that writes what `render` writes, with images in place and answers marked.

    Args:
        render: The base's own template: turns of (role, text), and whether a generation prompt follows, to text.
        image_text: How one image stands in the prompt.
        bos: Token that the base's tokenizer puts before every text, or "". It is written by the template, since
            transformers adds it to a chat and vLLM does not.
        stop_tokens: Tokens that end an answer; the first is added where the base's template writes none (LLaVA-1.5's
            does not, while its training did).
        name: Of the checkpoint, for messages.

    Raises:
        ModelError: The template cannot be described by what it writes around the texts.
    """
    turn = _observe(render, stop_tokens, name)
    _check(render, turn, name)
    before_system = turn.before_system if turn.before_system is not None else ""
    words = {"IMAGE": image_text, "BEFORE_SYSTEM": _opened(bos, before_system), "AFTER_SYSTEM": turn.after_system,
             "FIRST": _opened(bos, turn.first), "BETWEEN": turn.between, "PROMPT": turn.prompt, "LEAD": turn.lead, "STOP": turn.stop,
             "END": turn.end}
    sets = "".join(f"{{%- set {key} = {json.dumps(value, ensure_ascii=False)} -%}}\n" for key, value in words.items())
    return sets + _JINJA


def _opened(bos: str, text: str) -> str:
    """The text with the token in front, once."""
    return text if text.startswith(bos) else bos + text


def _observe(render: Renderer, stop_tokens: Sequence[str], name: str) -> Turn:
    """Read a `Turn` off what the base writes around sentinel words."""
    asked, answered, again = ("user", _ASKED), ("assistant", _ANSWERED), ("user", _AGAIN)
    first, prompt = _around(render([asked], True), [_ASKED], name)
    _, opened, closed = _around(render([asked, answered], False), [_ASKED, _ANSWERED], name)
    _, _, between, _ = _around(render([asked, answered, again], True), [_ASKED, _ANSWERED, _AGAIN], name)
    if not opened.startswith(prompt):
        if _bare(opened) != _bare(prompt):
            raise _unlike(name, f"its generation prompt {prompt!r} is not how its answers begin ({opened!r})")
        opened = prompt  # LLaVA-OneVision's differ in a blank; what the model goes on from is the prompt
    stop = next((closed[: closed.index(token) + len(token)] for token in stop_tokens if token in closed), None)
    if stop is None:
        stop = stop_tokens[0]
        # The base separates turns by blanks only; they follow the end of the answer as they did in its training.
        closed, between = stop + closed.lstrip(" "), stop + between.lstrip(" ")
    if not between.startswith(stop):
        raise _unlike(name, f"an answer ends in {closed!r} but goes on in {between!r}")
    before_system, after_system = _observe_system(render, name)
    return Turn(first, before_system, after_system, prompt, opened.removeprefix(prompt), stop,
                closed.removeprefix(stop), between.removeprefix(stop))


def _observe_system(render: Renderer, name: str) -> tuple[str | None, str]:
    """What stands around a system message; (None, "") where the template refuses or drops it."""
    try:
        text = render([("system", _SYSTEM), ("user", _ASKED)], True)
    except (TemplateError, TypeError, ValueError, LookupError):  # what a template raises, or Jinja in it
        return None, ""
    if _SYSTEM not in text:
        return None, ""
    before, after, _ = _around(text, [_SYSTEM, _ASKED], name)
    return before, after


def _around(text: str, words: Sequence[str], name: str) -> list[str]:
    """The pieces of a text around words that stand in it once each, in order."""
    pieces = []
    for word in words:
        if text.count(word) != 1:
            raise _unlike(name, f"a message stands in it {text.count(word)} times")
        before, _, text = text.partition(word)
        pieces.append(before)
    return [*pieces, text]


def _check(render: Renderer, turn: Turn, name: str) -> None:
    """Compare with the base on a longer conversation, but for blanks and for a stop token that it lacks."""
    turns: list[tuple[str, str]] = [("user", _ASKED), ("assistant", _ANSWERED), ("user", _AGAIN), ("assistant", _ANSWERED),
                                    ("user", _LAST)]
    expected = render(turns, True)
    answer = turn.prompt + turn.lead + _ANSWERED + turn.stop
    made = turn.first + _ASKED + answer + turn.between + _AGAIN + answer + turn.between + _LAST + turn.prompt
    if turn.stop not in expected:
        made = made.replace(turn.stop, "")
    if _bare(made) != _bare(expected):
        raise _unlike(name, f"it writes {expected[:200]!r} where turns alone would give {made[:200]!r}")


def _bare(text: str) -> str:
    """A text without its blanks and line breaks."""
    return "".join(text.split())


def _unlike(name: str, why: str) -> ModelError:
    return ModelError(f"the chat template of {name!r} is not made of turns: {why}; put a chat_template.jinja with images in "
                      "place and {% generation %} marks into the folder")


def processor_renderer(processor: Any) -> Renderer:
    """The own chat template of a processor as a `Renderer`."""

    def render(turns: Turns, generation: bool) -> str:
        messages: list[dict[str, Any]] = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
        return str(processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=generation))

    return render
