"""`geotempo eval` and `geotempo score`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geotempo.model.errors import InputError
from geotempo.model.files import write_text

if TYPE_CHECKING:
    from geotempo.data_builders.store import Store
    from geotempo.eval.answerers import Answerer
    from geotempo.eval.plan import Selection


def evaluate(
    tasks: Annotated[list[str], typer.Argument(help="Task names, or paths of task files (.yaml).")],
    data: Annotated[Path, typer.Option(help="Store with the samples, made by `geotempo build`.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; the same call again goes on where it stopped.")],
    model: Annotated[str | None, typer.Option(help="Checkpoint folder or hub name.")] = None,
    answers: Annotated[str | None, typer.Option(
        help="Instead of a model: oracle (the truth through the grammar), majority, empty, constant:TEXT.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test; default: the task's own.")] = None,
    ids: Annotated[Path | None, typer.Option(help="File of sample ids, one a line; without `#...`: all of an item.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first N samples of each task.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Requests handed over at once.")] = 8,
    masks: Annotated[bool, typer.Option("--masks", help="Turn regions into masks with SAM before scoring.")] = False,
    control: Annotated[str | None, typer.Option(
        help="Perturb the images: blank, jpeg85, brighter, reversed, swap.")] = None,
    against: Annotated[Path | None, typer.Option(help="Unperturbed run to compare a control with.")] = None,
) -> None:
    """Ask a model the samples of tasks, write predictions.jsonl, and score it."""
    if (model is None) == (answers is None):
        raise InputError("give exactly one of --model and --answers")
    from geotempo.data_builders.store import Store
    from geotempo.eval.plan import Selection, read_ids
    from geotempo.eval.report import table
    from geotempo.eval.runner import run
    from geotempo.eval.score import score_run
    from geotempo.eval.task import load_task

    chosen = Selection(tuple(load_task(name) for name in tasks), split, read_ids(ids) if ids else None, limit, control)
    store = Store(data)
    answerer = _model(model) if model is not None else _baseline(answers or "", store, chosen)
    segmenter = None
    if masks:
        from geotempo.model.masks import Segmenter

        segmenter = Segmenter.load()
    run(store, chosen, answerer, out, batch_size, segmenter)
    typer.echo(table(score_run(out, data, against)))


def score(
    run: Annotated[Path | None, typer.Argument(help="Folder of a run made by `geotempo eval`.")] = None,
    data: Annotated[Path | None, typer.Option(help="Its store, where that has moved.")] = None,
    against: Annotated[Path | None, typer.Option(help="Unperturbed run to compare a control with.")] = None,
    predictions: Annotated[Path | None, typer.Option(
        help="Instead of a run: lines of {id, prediction, references} by any model; needs --task.")] = None,
    task: Annotated[str | None, typer.Option(help="Task of --predictions, such as levir_cc.")] = None,
    protocol: Annotated[str | None, typer.Option(help="Another protocol for --predictions than the task's own.")] = None,
    meteor: Annotated[str, typer.Option(help="For captions: exact-stem, or 1.5 (needs Java and pycocoevalcap).")] = "exact-stem",
    vocabulary: Annotated[Path | None, typer.Option(help="Word map (JSON) for the protocols words_unk and levircc_ids.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the result of --predictions as JSON.")] = None,
) -> None:
    """Score a run again, or the predictions of any other model; needs no model."""
    if (run is None) == (predictions is None):
        raise InputError("give either the folder of a run, or --predictions FILE.jsonl with --task")
    if run is not None:
        from geotempo.eval.report import table
        from geotempo.eval.score import score_run

        typer.echo(table(score_run(run, data, against)))
        return
    from geotempo.eval.metrics import lines

    if predictions is None or task is None:
        raise InputError(f"--predictions needs --task; allowed: {', '.join(lines.TASKS)}")
    words = _word_map(vocabulary) if vocabulary else None
    scored = lines.score_lines(predictions, task, protocol, meteor=meteor, vocabulary=words)
    if out is not None:
        write_text(out, json.dumps(scored, indent=1) + "\n")
    typer.echo(lines.table(scored))


def _word_map(path: Path) -> dict[str, int]:
    try:
        words = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the vocabulary {path}: {error}") from None
    if not isinstance(words, dict) or not all(type(number) is int for number in words.values()):
        raise InputError(f"the vocabulary {path} must be one JSON object of words to numbers")
    return words


def _model(model: str) -> "Answerer":
    from geotempo.eval.answerers import ModelAnswers, model_fingerprint
    from geotempo.serve.hf import HFPredictor

    return ModelAnswers(HFPredictor(model), model_fingerprint(model))


def _baseline(answers: str, store: "Store", selection: "Selection") -> "Answerer":
    from geotempo.eval.answerers import FixedAnswers, OracleAnswers
    from geotempo.eval.plan import majority_answers

    kind, colon, text = answers.partition(":")
    names = [task.task for task in selection.tasks]
    if kind == "constant" and colon:
        return FixedAnswers(answers, dict.fromkeys(names, text))
    match answers:
        case "oracle":
            return OracleAnswers()
        case "empty":
            return FixedAnswers("empty", dict.fromkeys(names, "[]"))
        case "majority":
            return majority_answers(store, selection)
    raise InputError(f"--answers {answers!r} is not known; allowed: oracle, majority, empty, constant:TEXT")
