"""Scene classification from folders: a folder per class, as torchvision's `ImageFolder` wants them.

```
<root>/<class>/[...]/<image>                       or
<root>/{train,val,test}/<class>/[...]/<image>      where the split is the folder's
```
Few of these data sets have an official split. Where a copy has none, or a train folder alone, a share of each class is
val: the first by the hash of their name, so that images that are added or removed change the split of few others. Files
with equal bytes go together, so that no image is in both.
"""

import hashlib
import re
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from geotempo.data_builders.label_tasks import slug
from geotempo.data_builders.sample import Sample
from geotempo.data_builders.source import (
    EXTENSIONS,
    REENCODED_EXTENSIONS,
    Draft,
    FolderSource,
    Rejection,
    need_folder,
)
from geotempo.data_builders.wordings import ask
from geotempo.model.errors import InputError, LayoutError
from geotempo.model.records import ImageRecord

PICTURES = (*EXTENSIONS, *REENCODED_EXTENSIONS)
MAX_NAMED = 100
"""Most classes that a question lists."""

_SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
           "testing": "test"}
_LITTER = ("thumbs.db", "desktop.ini")
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_A-Za-z]+")


def readable(folder: str) -> str:
    """The name of a class folder as words in lower case: `SparseResidential` and `sparse_residential` are the same."""
    return " ".join(_WORDS.findall(folder)).lower() or folder


def same_name(folder: str) -> str:
    """A folder's name without what copies change: capitals, blanks, hyphens and underscores."""
    return re.sub(r"[\W_]", "", folder).lower()


def balanced_split(paths: Sequence[Path], share: float) -> frozenset[Path]:
    """Files of one class that are held out.

    Args:
        paths: All files of the class.
        share: Of them that is wanted, 0 to 1; it is not exceeded.

    Returns:
        The files held out; of files with equal bytes all or none.
    """
    wanted, chosen = round(share * len(paths)), set[Path]()
    groups = sorted(_equal(paths), key=lambda group: hashlib.sha256(group[0].name.encode()).hexdigest())
    for group in groups:
        if len(chosen) + len(group) <= wanted:
            chosen.update(group)
    return frozenset(chosen)


def _equal(paths: Sequence[Path]) -> list[list[Path]]:
    """Groups of files with equal bytes; only files of one size are read."""
    sizes: defaultdict[int, list[Path]] = defaultdict(list)
    for path in sorted(paths):
        sizes[path.stat().st_size].append(path)
    groups: defaultdict[tuple[int, str], list[Path]] = defaultdict(list)
    for size, same in sizes.items():
        for path in same:
            name = hashlib.sha256(path.read_bytes()).hexdigest() if len(same) > 1 else ""
            groups[size, name].append(path)
    return list(groups.values())


class ClassFolders(FolderSource):
    """Two questions about each image: which of these classes, and which kind of scene without their names.

    Args:
        val_share: Share of each class that is val where the folders tell no split, 0 to below 1.
    """

    tasks = ("classification",)
    inside: ClassVar[tuple[str, ...]] = ("",)

    def __init__(self, val_share: float = 0.2) -> None:
        if not 0 <= val_share < 1:
            raise InputError(f"val_share is {val_share}; give a share from 0 (no val) to below 1")
        self.val_share = val_share
        self.dataset = self.name
        self._listed: dict[Path, dict[str, Path]] = {}
        self._bases: dict[Path, dict[str, Path]] = {}

    @abstractmethod
    def label(self, folder: str) -> str | None:
        """Label of a class folder; None where it is none of the data set's classes."""

    @abstractmethod
    def named(self, root: Path) -> Sequence[str]:
        """Labels of all classes, sorted, for the questions that list them."""

    @abstractmethod
    def images(self, path: Path) -> tuple[ImageRecord, ...]:
        """What an image file shows, see `load_image`; views of one acquisition where it is more than a picture.

        Raises:
            Rejection: It cannot be used.
        """

    def check_layout(self, root: Path) -> None:
        """See `Source`."""
        need_folder(root, self.name, "a folder per class, or {train,val,test} with a folder per class each")
        if not any(subfolders(folder) for folder in self.split_folders(root).values()):
            raise LayoutError(f"{root} has no folders of classes; {self.name} expects <class>/<image>, or "
                              "{train,val,test}/<class>/<image>")

    def split_folders(self, root: Path) -> dict[str, Path]:
        """Folders that hold the folders of classes, by split; the name is empty where the copy has one folder for all.

        Raises:
            LayoutError: Folders of splits and of classes stand beside each other.
        """
        if root not in self._bases:
            self._bases[root] = self._look(root)
        return self._bases[root]

    def _look(self, root: Path) -> dict[str, Path]:
        """See `split_folders`."""
        base = next((root / name for name in self.inside if (root / name).is_dir()), root)
        folders = subfolders(base)
        found = [path for path in folders if path.name.lower() in _SPLITS and subfolders(path)]
        splits = {_SPLITS[path.name.lower()]: path for path in found}
        if len(splits) < len(found):
            names = ", ".join(path.name for path in found)
            raise LayoutError(f"{base} holds {names}, of which two mean one split; put their images into one of them")
        others = [path.name for path in folders if path not in found and any(map(_is_picture, path.rglob("*")))]
        if splits and others:
            names = ", ".join(path.name for path in found)
            raise LayoutError(f"{base} holds {names} and beside them images in {others[0]}; move one or the other away")
        return splits or {"": base}

    def files(self, root: Path) -> dict[str, Path]:
        """Files by key, `split/class/[...]/name`; listed once."""
        if root not in self._listed:
            splits = self.split_folders(root)
            carve = set(splits) <= {"", "train"}
            found: dict[str, Path] = {}
            for split, base in splits.items():
                found |= {f"{split or 'train'}/{path.name}": path for path in base.iterdir() if _is_picture(path)}
                for folder in subfolders(base):
                    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_litter(path)]
                    held_out = balanced_split(paths, self.val_share) if carve else frozenset()
                    for path in paths:
                        name = "val" if path in held_out else split or "train"
                        found[f"{name}/{path.relative_to(base).as_posix()}"] = path
            self._listed[root] = dict(sorted(found.items()))
        return self._listed[root]

    def keys(self, root: Path) -> list[str]:
        """`split/class/[...]/name` of every file in a class folder, and `split/name` of pictures beside these folders."""
        return list(self.files(root))

    def samples(self, root: Path, key: str) -> Iterator[Sample]:
        """Both questions about one image."""
        split, _, rest = key.partition("/")
        folder, inside, _ = rest.partition("/")
        if not inside:
            raise Rejection("no class", f"{rest} lies in no folder of a class")
        label, named = self.label(folder), self.named(root)
        if label is None:
            raise Rejection("unknown class", f"{rest}: {folder} is none of the {len(named)} classes of {self.name}; "
                                             "scene-folders takes folders as they are")
        splits = self.split_folders(root)
        path = splits.get(split, next(iter(splits.values()))) / rest  # without a folder of its own val is a part of train
        draft = Draft(self.dataset, split, slug_path(path, rest), self.images(path), self.licence)
        tag = "classification"
        if len(named) <= MAX_NAMED:
            question = ask("classification.scene", draft.id(tag), classes=", ".join(named))
            yield draft.sample(tag, tag, question, label)
        tag = "classification:open"
        yield draft.sample(tag, "classification", ask("classification.open", draft.id(tag)), label)

    def tally(self, samples: Sequence[Sample]) -> Counter[str]:
        """Images per split, and per split and class."""
        found: Counter[str] = Counter()
        if samples:
            found[f"images/{samples[0].split}"] += 1
            found[f"{samples[0].target}/{samples[0].split}"] += 1
        return found


def slug_path(path: Path, rest: str) -> str:
    """Part of a sample id: class, folders and stem; with the extension where two files differ in it alone."""
    twins = [path.with_suffix(extension) for extension in PICTURES if extension != path.suffix.lower()]
    name = path.name if any(twin.is_file() for twin in twins) else path.stem
    return "/".join(slug(part) for part in (*rest.split("/")[:-1], name))


def subfolders(folder: Path) -> list[Path]:
    """Folders in a folder, sorted, without what operating systems leave there."""
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not _is_litter(path)]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES and path.is_file() and not _is_litter(path)


def _is_litter(path: Path) -> bool:
    """What operating systems leave in folders."""
    return path.name.startswith((".", "__MACOSX")) or path.name.lower() in _LITTER
