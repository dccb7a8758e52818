"""Draws docs/forms.jpg: what one flood can become in an answer. Run: python docs/forms.py."""

from dataclasses import replace
from pathlib import Path

from geotempo.data_builders.scenes.samples import scene_samples
from geotempo.model import answer
from geotempo.model.draw import sheet
from geotempo.model.geometry import BoolArray, rasterize
from geotempo.model.masks import Segmenter
from geotempo.model.prompts import frames_of
from geotempo.model.records import Region

LABEL = "flooded area"


def iou(first: BoolArray, second: BoolArray) -> float:
    """Intersection over union, times 100."""
    return 100 * float((first & second).sum()) / float((first | second).sum())


def draw(out: Path, seed: int = 77, least: int = 6000) -> None:
    """Draw the first scene of a series with a flood of at least `least` pixels."""
    for index in range(200):
        for sample in scene_samples(seed, index, split="val"):
            floods = [region for region in sample.regions if region.label == LABEL]
            if sample.task == "change_segmentation" and floods and rasterize(floods[0].geometry, 256, 256).sum() >= least:
                frames = frames_of(sample.images)
                picture = sample.images[floods[0].image - 1]
                truth = rasterize(floods[0].geometry, picture.height, picture.width)
                boxed = answer.lossy_form(floods[0], frames)
                grid = answer.lossy_form(floods[0], frames, grids=True)
                sam = Segmenter.load().segment(picture, [boxed])[0].to_array()
                forms = [("the truth", floods[0], truth), ("box", boxed, rasterize(boxed.geometry, *truth.shape)),
                         ("box and points, SAM", boxed, sam), ("grid", grid, rasterize(grid.geometry, *truth.shape))]
                panels = [(picture.rgb(), name if name == "the truth" else f"{name}: IoU {iou(mask, truth):.0f}") for name, _, mask in forms]
                written = answer.format([replace(floods[0], label=LABEL)], frames, points=True, grids=True)
                regions: list[list[Region]] = [[region] for _, region, _ in forms]
                sheet(panels, regions, sample.question, written, masks_by_image=[[mask] for *_, mask in forms]).save(out, quality=88)
                return


if __name__ == "__main__":
    draw(Path(__file__).parent / "forms.jpg")
