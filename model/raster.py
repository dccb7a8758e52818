"""Read image files of any kind into `ImageRecord`s: bands chosen, one stretch for the sequence, one grid.

Plain 8-bit PNG, JPEG and WebP files are taken byte for byte. Everything else goes through GDAL (rasterio, extra
`[geo]`): bands are chosen by name or colour interpretation, values become 8-bit RGB by one stretch stated for the whole
sequence, and georeferenced images on different grids are warped onto the reference grid. No torch.
"""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from geotempo.model.bands import choose_bands
from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError, MissingExtraError
from geotempo.model.gdal import MAX_PIXELS, Grid, Pixels, probe, read_pixels
from geotempo.model.geo import Georeference
from geotempo.model.geometry import Mask
from geotempo.model.records import ImageRecord, time_order
from geotempo.model.stretch import Stretch, find_stretch
