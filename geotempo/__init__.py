"""GeoTempo: ask a dated sequence of satellite images, get text, boxes, masks and GeoJSON.

This module imports nothing, so that the command line answers at once.
"""

__version__ = "0.1.0"
