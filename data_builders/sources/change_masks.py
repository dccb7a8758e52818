"""Data sets of pairs with a binary change mask, one class each; `geotempo.data_builders.change_masks` reads them.

| source | authors' folders | masks | traps |
|---|---|---|---|
| levir-cd-plus | `{train,test}/{A,B,label}` | 0/255 | test begins with `train_638.png`, so only the folder tells the split |
| s2looking | `{train,val,test}/{Image1,Image2,label,label1,label2}` | coloured | label1 new, label2 demolished; off nadir |
| whu-cd | `{A,B,label}` with lists, or split folders | 0/255 | one scene of 2012 and 2016 in crops |
| sysu-cd | `{train,val,test}/{time1,time2,label}` | 0/255 | numbers begin anew in each split |
| clcd | `{train,val,test}/{time1,time2,label}` | 0/255 | cropland only |
| dsifn | `{train,val,test}/{t1,t2,mask}` | 0/255 | images JPEG, masks PNG, but TIFF in test |
| cdd | `{train,val,test}/{A,B,OUT}` | 0..255 | masks are JPEG; the season changes and is no change |

What S2Looking's colours are was not stated anywhere that could be checked, so any colour but black is change.
"""

from collections.abc import Iterator
from pathlib import Path

from geotempo.data_builders.change_masks import ChangeMasks, PairLayout, find_label, load_change
from geotempo.data_builders.instances import instances
from geotempo.data_builders.label_tasks import change_tasks
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import Draft, Rejection
from geotempo.data_builders.tiling import windows
from geotempo.model.errors import LayoutError
from geotempo.model.geometry import BoolArray


class LevirCdPlus(ChangeMasks):
    """LEVIR-CD+: changed buildings in 985 pairs of 1024 pixels, an extension of LEVIR-CD that holds its tiles."""

    name = "levir-cd-plus"
    licence = "academic; LEVIR-CD+, imagery Google Earth"
    citation = "Chen and Shi 2020, LEVIR-CD, Remote Sensing 12(10); Shen et al. 2021, S2Looking, Remote Sensing 13(24)"
    evidence = "documentation"
    labels = ("building",)
    layout = PairLayout(("A", "B", "label"), "building", "building", gsd=0.5)


class S2Looking(ChangeMasks):
    """S2Looking: new and demolished buildings in 5,000 pairs of rural side-looking images."""

    name = "s2looking"
    licence = "academic; S2Looking"
    citation = "Shen et al. 2021, S2Looking, Remote Sensing 13(24)"
    evidence = "documentation"
    labels = ("changed building", "new building", "demolished building")
    layout = PairLayout(("Image1", "Image2", "label"), "building", "changed building")
    kinds = (("label1", "built", "new building", 2), ("label2", "demolished", "demolished building", 1))

    def check_layout(self, root: Path) -> None:
        """See `Source`; a copy has both `label1` and `label2`, or neither."""
        super().check_layout(root)
        for parent in [root / split for split in ("train", "val", "test") if (root / split).is_dir()] or [root]:
            there = [name for name, *_ in self.kinds if (parent / name).is_dir()]
            if len(there) == 1:
                raise LayoutError(f"{parent} has {there[0]} alone; s2looking expects label1 (new) and label2 (demolished) "
                                  "together, or neither")

    def tile_samples(self, draft: Draft, changed: BoolArray, parent: Path, stem: str) -> Iterator[Sample]:
        """Changed buildings, then new ones on the later and demolished ones on the earlier image."""
        yield from super().tile_samples(draft, changed, parent, stem)
        for folder, done, label, image in self.kinds:
            if (parent / folder).is_dir():
                mask = self._window(load_change(find_label(parent / folder, stem)), draft, stem, folder)
                yield from change_tasks(draft, instances(mask, image, label), "building", done=done)

    def _window(self, mask: BoolArray, draft: Draft, stem: str, folder: str) -> BoolArray:
        """The part of a mask that belongs to a tile."""
        found = [mask[window] for name, window in windows(mask.shape[0], mask.shape[1], self.tile) if draft.key == stem + name]
        first = draft.images[0]
        if not found or found[0].shape != (first.height, first.width):
            raise Rejection("size mismatch", f"{folder}/{stem} is {mask.shape[1]} x {mask.shape[0]}, unlike its images")
        return found[0]


class WhuCd(ChangeMasks):
    """WHU-CD: changed buildings of Christchurch between 2012 and 2016 at 0.075 to 0.2 m, in crops."""

    name = "whu-cd"
    licence = "academic; WHU building change detection dataset"
    citation = "Ji et al. 2019, Fully Convolutional Networks for Multisource Building Extraction, IEEE TGRS 57(1)"
    evidence = "documentation"
    labels = ("building",)
    layout = PairLayout(("A", "B", "label"), "building", "building")


class SysuCd(ChangeMasks):
    """SYSU-CD: urban change of all kinds in 20,000 pairs of Hong Kong at 0.5 m."""

    name = "sysu-cd"
    licence = "academic; SYSU-CD"
    citation = "Shi et al. 2021, A Deeply Supervised Attention Metric-Based Network, IEEE TGRS 60"
    evidence = "documentation"
    labels = ("changed area",)
    layout = PairLayout(("time1", "time2", "label"), "area", "changed area", count=False, gsd=0.5)


class Clcd(ChangeMasks):
    """CLCD: changed cropland in 600 pairs of Guangdong at 0.5 to 2 m."""

    name = "clcd"
    licence = "unknown; CLCD, imagery Gaofen-2"
    citation = "Liu et al. 2022, A CNN-Transformer Network for Cropland Change Detection, IEEE JSTARS 15"
    evidence = "documentation"
    labels = ("changed cropland",)
    layout = PairLayout(("time1", "time2", "label"), "cropland area", "changed cropland", count=False)


class Dsifn(ChangeMasks):
    """DSIFN: change of many kinds in pairs of six Chinese cities."""

    name = "dsifn"
    licence = "academic; DSIFN, imagery Google Earth"
    citation = "Zhang et al. 2020, A deeply supervised image fusion network, ISPRS Journal 166"
    evidence = "documentation"
    labels = ("changed area",)
    layout = PairLayout(("t1", "t2", "mask"), "area", "changed area", count=False)


class Cdd(ChangeMasks):
    """CDD (SVCD): objects that appear or vanish between seasons at 0.03 to 1 m."""

    name = "cdd"
    licence = "unknown; CDD, imagery Google Earth"
    citation = "Lebedev et al. 2018, Change Detection in Remote Sensing Images Using Conditional Adversarial Networks, ISPRS Archives"
    evidence = "documentation"
    labels = ("changed area",)
    layout = PairLayout(("A", "B", "OUT"), "area", "changed area", count=False)
