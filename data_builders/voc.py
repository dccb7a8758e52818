"""PASCAL VOC annotations (XML), read without entities: a file with a document type, in which they would be defined, is refused."""

from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from geotempo.data_builders.source import Rejection


def load_voc(path: Path) -> ElementTree.Element:
    """The root element of an annotation.

    Raises:
        Rejection: Missing, no XML, or with a document type.
    """
    builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = _refuse
    try:
        parser.Parse(path.read_bytes(), True)
    except FileNotFoundError:
        raise Rejection("missing annotation", f"{path.parent.name}/{path.name}") from None
    except (OSError, ValueError, expat.ExpatError) as error:
        raise Rejection("broken annotation", f"{path.parent.name}/{path.name}: {error}") from None
    return builder.close()


def _refuse(name: str, system_id: str | None, public_id: str | None, has_internal_subset: bool) -> None:
    raise ValueError(f"it declares the document type {name}, which no VOC annotation does")


def text_of(element: ElementTree.Element, path: str) -> str:
    """Text of a descendant, stripped; empty where there is none."""
    return " ".join((element.findtext(path) or "").split())
