"""What a run shows while it learns, wired to its Trainer by one call.

    observe(trainer, recipe, processor)   after the Trainer is made, before `trainer.train()`

replaces the Trainer's own bar and prints by `progress.Progress`, and adds `watch.Watch` (`data.watch` samples, OUT/watch.html),
`Curves` (OUT/curves.png at the end) and the loggers of `loggers.use_own_loggers`. `loggers.check_loggers` goes before anything is
loaded.
"""

from pathlib import Path
from typing import Any

from transformers import PrinterCallback, ProcessorMixin, ProgressCallback, Trainer, TrainerCallback

from geotempo.finetune.curves import CURVES, STATE, draw_png
from geotempo.finetune.loggers import use_own_loggers
from geotempo.finetune.progress import Progress, Throughput
from geotempo.finetune.recipe import Recipe
from geotempo.finetune.watch import Answerer, Watch, choose
from geotempo.model.bases import convention_of
from geotempo.model.errors import GeoTempoError


class Curves(TrainerCallback):  # type: ignore[misc]  # transformers is Any to mypy
    """Leaves the whole log history and its curves in the run's folder."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write `trainer_state.json` and draw; a picture that cannot be drawn costs no training."""
        if not state.is_world_process_zero:
            return
        state.save_to_json(str(self.out / STATE))
        try:
            draw_png(state.log_history, self.out / CURVES, self.out.resolve().name)
        except GeoTempoError as error:
            print(f"{self.out / CURVES} was not drawn: {error}")


def observe(trainer: Trainer, recipe: Recipe, processor: ProcessorMixin) -> None:
    """Let a Trainer show what a run learns.

    Args:
        trainer: A `geotempo.finetune.trainer.GeoTempoTrainer` that has not begun to train; its callbacks are changed.
        recipe: Says how many samples are watched, and of which data.
        processor: Of the model.

    Raises:
        InputError: A store cannot be read.
    """
    out = Path(trainer.args.output_dir)
    for own in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(own)
    use_own_loggers(trainer)
    trainer.add_callback(Progress(disabled=bool(recipe.train.get("disable_tqdm"))))
    if recipe.data.watch:
        choice = choose(recipe.data, recipe.data.watch, trainer.args.seed)
        answerer = Answerer(trainer, processor, convention_of(trainer.model.config, processor), recipe.data)
        trainer.add_callback(Watch(answerer, choice, out))
    trainer.add_callback(Curves(out))
    trainer.throughput = Throughput(lambda: (trainer.state.num_input_tokens_seen, trainer.supervised_seen))
    trainer.add_callback(trainer.throughput)  # last, so that the time of all others is no time of training
