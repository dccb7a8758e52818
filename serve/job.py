"""One question about one sequence, from files to an answer with masks: load, order, ask, parse, mark, segment."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from geotempo.model.answer import parse, parse_images
from geotempo.model.budget import thin_dates
from geotempo.model.convention import GEOTEMPO, Convention
from geotempo.model.errors import InputError
from geotempo.model.geometry import Box, Mask, bounds, rasterize
from geotempo.model.mask_output import MaskMaker, by_image, index_image
from geotempo.model.predictor import Predictor, Request
from geotempo.model.prompts import frames_of
from geotempo.model.raster import Stack
from geotempo.model.records import Answer, ImageRecord, Region, TimeOrder, time_order
from geotempo.serve.questions import CHANGE_TASKS, question_for

REGION = re.compile(r"<region:(\d+)>")
NO_DATA_SHARE = 0.5  # a region with more of its pixels without data cannot be judged


@dataclass(frozen=True)
class Outcome:
    """A question that was answered.

    Attributes:
        stack: The images as they were read.
        order: How they are numbered.
        task: The task, or None for a free question.
        question: What was asked.
        model: Name of the model.
        answer: What came back; regions that the images cannot show are marked as not assessable.
        masks: One per region where masks were asked for, else None.
        asked: Regions that the question speaks of.
        convention: How the model counts coordinates.
        notes: What a user should know of how the images were shown to the model, one sentence each.
    """

    stack: Stack
    order: TimeOrder
    task: str | None
    question: str
    model: str
    answer: Answer
    masks: tuple[Mask, ...] | None = None
    asked: tuple[Region, ...] = ()
    convention: Convention = GEOTEMPO
    notes: tuple[str, ...] = ()

    @property
    def question_for_people(self) -> str:
        """The question with `<region:i>` in words."""
        return REGION.sub(lambda match: f"the marked place in Image {self.asked[int(match.group(1))].image}", self.question)

    @property
    def regions(self) -> tuple[Region, ...]:
        """The answer's regions; empty where it lists none."""
        return self.answer.regions or ()

    @property
    def acquisitions(self) -> int:
        """Number of acquisitions."""
        return max(self.order.numbers)

    @property
    def named_images(self) -> tuple[int, ...] | None:
        """Acquisition numbers that a temporal-referring answer names; None for other tasks or where it is unreadable."""
        return parse_images(self.answer.prose, self.acquisitions) if self.task == "temporal_referring" else None

    def image(self, number: int) -> ImageRecord:
        """The first image of acquisition `number`."""
        return self.stack.images[self.order.index_of(number)]

    def change_dates(self, region: Region) -> tuple[str | None, str | None]:
        """(`after`, `before`): last date without the change and first date with it; None where it is no change."""
        if self.task not in CHANGE_TASKS or region.image < 2:
            return None, None
        last, first = self.image(region.image - 1).date, self.image(region.image).date
        return (str(last) if last else None), (str(first) if first else None)


def answer_question(stack: Stack, predictor: Predictor, *, task: str | None = None, prompt: str | None = None,
                    regions: Sequence[Region] = (), segmenter: Callable[[], MaskMaker] | None = None,
                    max_new_tokens: int = 512) -> Outcome:
    """Ask a predictor about a sequence.

    Args:
        stack: The images.
        predictor: What answers.
        task: A key of `TASK_QUESTIONS`, or None.
        prompt: The question; None asks the task's usual one. `<region:i>` stands for the i-th of `regions`, from 0.
        regions: Regions that the question speaks of.
        segmenter: Gives the mask maker when there are regions; None where no masks are wanted.
        max_new_tokens: Limit of the answer's length in tokens.

    Raises:
        InputError: The task does not fit the images, or has no usual question.
    """
    order = time_order(stack.images)
    task, question = question_for(task, prompt, max(order.numbers))
    _check_regions(regions, question, stack, max(order.numbers))
    reply = predictor.predict([Request(stack.images, question, tuple(regions), max_new_tokens)])[0]
    convention = predictor.convention
    answer = parse(reply.text, frames_of(stack.images, convention), mode=convention.mode, finish_reason=reply.finish_reason)
    outcome = Outcome(stack, order, task, question, predictor.name, answer, asked=tuple(regions), convention=convention,
                      notes=_crop_notes(stack, convention))
    if answer.regions is not None:
        marked = tuple(_judged(outcome, region) for region in answer.regions)
        outcome = replace(outcome, answer=replace(answer, regions=marked))
    if segmenter is None:
        return outcome
    return replace(outcome, masks=_segment(outcome, segmenter) if outcome.regions else ())


def _check_regions(regions: Sequence[Region], question: str, stack: Stack, acquisitions: int) -> None:
    """Refuse regions on images that are not there or outside of their image, and placeholders without a region."""
    by_image(regions, acquisitions)
    width, height = stack.grid.width, stack.grid.height
    for region in regions:
        box = bounds(region.geometry)
        if box.x1 >= width or box.y1 >= height or box.x2 <= 0 or box.y2 <= 0:
            raise InputError(f"the region at {box.as_tuple()} lies outside Image {region.image} of {width} x {height} pixels; "
                             "give pixels of the image, counted from its top left")
    named = [int(number) for number in REGION.findall(question)]
    if named and max(named) >= len(regions):
        raise InputError(f"the question names <region:{max(named)}>, but {len(regions)} regions were given; "
                         "give each with --region IMAGE:x1,y1,x2,y2 and count them from 0")


def thinned(stack: Stack, max_dates: int, seed: int = 0) -> Stack:
    """The sequence with at most `max_dates` acquisitions: the first, the last and a seeded draw of the others.

    Args:
        stack: The images.
        max_dates: Acquisitions that may stay, 2 or more.
        seed: Of the draw.

    Returns:
        A stack whose notes name the dates that were left out; the same one where nothing was.

    Raises:
        InputError: `max_dates` is below 2 and there is more than one acquisition.
    """
    kept, left = thin_dates(stack.images, max_dates, seed)
    if not left:
        return stack
    gone = ", ".join(dict.fromkeys(str(stack.images[i].date or stack.files[i]) for i in left))
    per_image = ("images", "files", "bands", "stretches", "requested", "clouds")
    chosen = {name: tuple(getattr(stack, name)[i] for i in kept) for name in per_image}
    note = f"left out to stay within {max_dates} dates (drawn with seed {seed}; the first and the last stay): {gone}"
    return replace(stack, **chosen, notes=(*stack.notes, note))  # type: ignore[arg-type]


def parse_region(text: str) -> Region:
    """A region as `IMAGE:x1,y1,x2,y2`: acquisition number from 1, then a box in pixels.

    Raises:
        InputError: The text is not of this form.
    """
    image, _, box = text.partition(":")
    try:
        x1, y1, x2, y2 = (float(value) for value in box.split(","))
        return Region(int(image), Box(x1, y1, x2, y2))
    except ValueError:
        raise InputError(f"{text!r} is no region; write IMAGE:x1,y1,x2,y2 in pixels, e.g. 2:10,20,64,80") from None
    except InputError as error:
        raise InputError(f"{text!r} is no region: {error}") from None


def _crop_notes(stack: Stack, convention: Convention) -> tuple[str, ...]:
    """A warning where the model sees less than the whole image."""
    width, height = stack.grid.width, stack.grid.height
    seen = convention.seen(width, height)
    if seen.area == width * height:
        return ()
    note = (f"the model sees only the centre crop of {seen.x2 - seen.x1:g} x {seen.y2 - seen.y1:g} of {width} x {height} "
            "pixels (TEOChat's own preparation), so boxes outside of it cannot be right; give square images")
    return (note,)


def _judged(outcome: Outcome, region: Region) -> Region:
    """The region, marked where the model could not see it or an image that it speaks of holds no data there."""
    image, box = outcome.image(region.image), bounds(region.geometry)
    seen = outcome.convention.seen(image.width, image.height)
    if box.x1 < seen.x1 - 1 or box.y1 < seen.y1 - 1 or box.x2 > seen.x2 + 1 or box.y2 > seen.y2 + 1:
        return replace(region, assessable=False, reason="outside the centre crop that the model saw")
    numbers = [region.image]
    if outcome.task in CHANGE_TASKS and region.image > 1:
        numbers.append(region.image - 1)
    for number in numbers:
        missing = _missing(outcome, outcome.order.index_of(number), region)
        share = missing["cloud"] + missing["nodata"]
        if share > NO_DATA_SHARE:
            reason, what = ("cloud", "are hidden by cloud or its shadow") if missing["cloud"] > missing["nodata"] else (
                "nodata", "hold no data")
            reason += f": {100 * share:.0f} % of the region's pixels in Image {number} {what}"
            return replace(region, assessable=False, reason=reason)
    return region


def _missing(outcome: Outcome, index: int, region: Region) -> dict[str, float]:
    """Shares of a region's pixels, 0 to 1, that cloud hides and that hold no data, in one image."""
    image, cloud = outcome.stack.images[index], outcome.stack.clouds[index]
    inside = rasterize(region.geometry, image.height, image.width)
    if image.valid is None or not inside.any():
        return {"cloud": 0.0, "nodata": 0.0}
    hidden = float(cloud.to_array()[inside].mean()) if cloud else 0.0
    return {"cloud": hidden, "nodata": float(1 - image.valid.to_array()[inside].mean()) - hidden}


def _segment(outcome: Outcome, segmenter: Callable[[], MaskMaker]) -> tuple[Mask, ...]:
    """One mask per region, each made on the acquisition that the region lies on."""
    maker = segmenter()
    masks: dict[int, Mask] = {}
    for number, mine in by_image(outcome.regions, outcome.acquisitions).items():
        image = outcome.image(number)
        made = maker.segment(image.rgb(), [outcome.regions[i] for i in mine])
        if len(made) != len(mine):
            raise InputError(f"the segmenter gave {len(made)} masks for {len(mine)} regions of Image {number}; "
                             "use another segmenter")
        masks |= dict(zip(mine, made, strict=True))
    return tuple(masks[i] for i in range(len(outcome.regions)))


def label_image(outcome: Outcome) -> Image.Image:
    """All masks as one indexed picture, see `geotempo.model.mask_output.index_image`."""
    return index_image(outcome.masks or (), outcome.stack.grid.height, outcome.stack.grid.width)
