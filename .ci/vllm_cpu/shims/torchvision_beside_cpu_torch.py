"""Lets torchvision's CUDA wheel import beside CPU torch.

Its compiled operators cannot load (no CUDA libraries), and `import torchvision` then fails because two of them are
registered from Python without ever having been defined. A `.pth` file imports this module at interpreter start; it does
nothing until somebody imports torchvision, and then defines the two operators first.
"""

import importlib.abc
import sys

_library = None  # torch drops the definitions when the library object is collected


def _nms(boxes, scores, threshold):
    """Non-maximum suppression: indices of the boxes kept, by falling score (torchvision.ops.nms, in plain torch)."""
    import torch

    order, kept = scores.argsort(descending=True), []
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while order.numel():
        first, order = order[0], order[1:]
        kept.append(first)
        size = (torch.minimum(boxes[first, 2:], boxes[order, 2:]) - torch.maximum(boxes[first, :2], boxes[order, :2])).clamp(min=0)
        overlap = size[:, 0] * size[:, 1]
        order = order[overlap / (area[first] + area[order] - overlap) <= threshold]
    return torch.stack(kept) if kept else torch.empty(0, dtype=torch.long)


def _define():
    global _library
    import torch

    if _library is None and not hasattr(torch.ops.torchvision, "nms"):
        _library = torch.library.Library("torchvision", "FRAGMENT")
        _library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _library.impl("nms", _nms, "CPU")


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _define()


sys.meta_path.insert(0, _BeforeTorchvision())
