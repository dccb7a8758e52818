"""`geotempo predict`: ask about image files; get text, masks, pictures and GeoJSON."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from geotempo.model.predictor import Predictor


def predict(
    images: Annotated[list[str], typer.Argument(help="Image files (PNG, JPEG, WebP, GeoTIFF, what GDAL reads), or folders "
                                                "of single-band files, one folder per date.")],
    date: Annotated[list[str] | None, typer.Option(help="Date of each image, in the same order; repeat it.")] = None,
    task: Annotated[str | None, typer.Option(help="Task; without --prompt its usual question is asked.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Your question.")] = None,
    region: Annotated[list[str] | None, typer.Option(help="Region IMAGE:x1,y1,x2,y2 (pixels) for <region:0>, ... in --prompt.")
                      ] = None,
    model: Annotated[str | None, typer.Option(help="Model folder or hub name; default: the embedded geotempo-tiny.")] = None,
    geojson: Annotated[Path | None, typer.Option(help="Write the regions as GeoJSON.")] = None,
    masks: Annotated[Path | None, typer.Option(help="Write a PNG whose value i is the mask of region i.")] = None,
    overlay: Annotated[Path | None, typer.Option(help="Write a PNG of the images with the regions drawn.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write one self-contained HTML page.")] = None,
    answer: Annotated[Path | None, typer.Option(help="Take this file as the answer instead of asking a model.")] = None,
    bands: Annotated[str | None, typer.Option(help="Bands to show: numbers or names, e.g. 3,2,1 or 5.")] = None,
    stretch: Annotated[str | None, typer.Option(help="none, minmax, percentiles (2-98) or values (0:3000).")] = None,
    view: Annotated[list[str] | None, typer.Option(help="Named view, e.g. 'true colour', NDVI, VV; repeat it for several.")
                    ] = None,
    product: Annotated[list[str] | None, typer.Option(help="Product, e.g. sentinel-2-l2a; once, or once per image.")] = None,
    band_names: Annotated[str | None, typer.Option(help="Names of all bands in the file's order, e.g. blue,green,red,nir.")
                          ] = None,
    offset: Annotated[list[int] | None, typer.Option(min=-10000, max=10000, help="Sentinel-2 offset: 0 or -1000; once, or "
                                                     "once per image.")] = None,
    cloud_mask: Annotated[list[str] | None, typer.Option(help="Cloud mask file (not 0: cloud) of each image, or none.")
                          ] = None,
    reference: Annotated[str | None, typer.Option(help="Image whose grid all share; default: the latest.")] = None,
    max_dates: Annotated[int | None, typer.Option(min=1, help="Keep at most so many dates: the first, the last, a draw between.")
                        ] = None,
    max_pixels: Annotated[int | None, typer.Option(min=1, help="Pixels per image that the model sees, where its base allows it.")
                         ] = None,
    sam: Annotated[Path | None, typer.Option(help="SAM folder for masks; default: the embedded sam_tiny.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Limit of the answer's length in tokens.")] = 512,
    json_output: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")] = False,
) -> None:
    """Ask a model about dated satellite images; print the answer and write masks, pictures and GeoJSON."""
    from geotempo.model.bandplan import Spectral
    from geotempo.model.mask_output import MaskMaker
    from geotempo.model.raster import load_stack
    from geotempo.serve.files import check_targets, write_all
    from geotempo.serve.geojson import features
    from geotempo.serve.job import answer_question, parse_region, thinned
    from geotempo.serve.questions import MASK_TASKS, question_for
    from geotempo.serve.report import Targets, contents, report

    targets = Targets(geojson, masks, overlay, page)
    check_targets(targets.paths(), [*images, *([str(answer)] if answer else [])])
    question_for(task, prompt, len(images))
    spectral = Spectral(tuple(view or ()), tuple(product or ()), band_names, tuple(offset or ()), tuple(cloud_mask or ()))
    stack = load_stack(images, date or (), bands=bands, stretch=stretch, reference=reference, spectral=spectral)
    if max_dates is not None:
        stack = thinned(stack, max_dates)

    def segmenter() -> MaskMaker:
        from geotempo.model.masks import Segmenter

        return Segmenter.load(sam)

    wanted = masks is not None or task in MASK_TASKS
    outcome = answer_question(stack, _predictor(model, answer, max_pixels), task=task, prompt=prompt,
                              regions=[parse_region(text) for text in region or ()],
                              segmenter=segmenter if wanted else None, max_new_tokens=max_new_tokens)
    found = features(outcome)
    files = contents(outcome, found, targets)
    write_all(files)
    typer.echo(report(outcome, found, list(files), as_json=json_output))


def _predictor(model: str | None, answer: Path | None, max_pixels: int | None) -> "Predictor":
    """The fixed answer where one is given, else the model."""
    if answer is not None:
        from geotempo.serve.replay import ReplayPredictor

        return ReplayPredictor.from_file(answer)
    from geotempo.model.checkpoints import default_model
    from geotempo.serve.hf import HFPredictor

    return HFPredictor(default_model() if model is None else model, max_pixels=max_pixels)
