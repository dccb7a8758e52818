"""Bands are identified by name, metadata, wavelength or product, and never by guess."""

import pytest

from geotempo.model.bands import (
    LANDSAT_OLI,
    LANDSAT_TM,
    SENTINEL2,
    canonical,
    identify,
    role_of_name,
    role_of_wavelength,
    with_colours,
)


@pytest.mark.parametrize(("names", "roles"), [
    (("B02", "B03", "B04"), ("blue", "green", "red")),
    (("B02", "B03", "B04", "B05"), ("blue", "green", "red", None)),  # HLS: near infrared; Sentinel-2: red edge
    (("B04", "B05", "B08", "B11"), ("red", "rededge071", "nir", "swir16")),
    (("B04", "B11", "B12"), ("red", "swir16", "swir22")),
    (("B2", "B3", "B4", "B5"), (None,) * 4),  # red is B4 on Landsat 8 and B3 on Landsat 5
    (("Red", "near_infrared", "SWIR 1", "swir22"), ("red", "nir", "swir16", "swir22")),
    (("Sigma0_VV_db", "Gamma0_VH", "vv", "Amplitude_HH"), ("vv", "vh", "vv", "hh")),
    ((None, "", "DEM"), (None, None, None)),
])
def test_names_alone(names, roles):
    assert identify(names) == roles


@pytest.mark.parametrize(("scheme", "role"), [(SENTINEL2, "red"), (LANDSAT_OLI, "red"), (LANDSAT_TM, "nir"), (None, None)])
def test_the_product_decides_what_b4_is(scheme, role):
    for name in ("B4", "B04", "SR_B4", "sr_b4", "band 4", "Band_4"):
        expected = role or ("red" if name == "B04" else None)
        assert identify([name], scheme=scheme) == (expected,), name


def test_metadata_come_before_the_name_and_after_the_product():
    assert identify(["a", "b"], common=["nir", None], wavelengths=[0.66, 1.61]) == ("nir", "swir16")
    assert identify(["B8A"], common=["nir08"]) == ("nir08",)
    assert identify(["B4"], common=["red"], scheme=LANDSAT_TM) == ("nir",)


@pytest.mark.parametrize(("micrometres", "role"), [(0.4825, "blue"), (0.565, "green"), (0.66, "red"), (0.825, "nir"),
                                                   (1.65, "swir16"), (2.22, "swir22"), (10.9, None), (None, None)])
def test_wavelengths_of_landsat_7(micrometres, role):
    assert role_of_wavelength(micrometres) == role


def test_colour_interpretation_completes_and_does_not_contradict():
    assert with_colours((None,) * 4, ("red", "green", "blue", "undefined")) == ("red", "green", "blue", None)
    assert with_colours(("blue", "green", "red", "nir"), ("red", "green", "blue", "alpha")) == ("blue", "green", "red", "nir")
    assert with_colours(("red", None), ("gray", "red")) == ("red", None)


def test_one_spelling_for_all():
    assert {canonical(name) for name in ("B8A", "b08a", "SR_B8A", "band 8a")} == {"B8A"}
    assert canonical("QA_PIXEL") == "qa_pixel" and role_of_name("QA_PIXEL") == "qa_pixel" and role_of_name("SCL") == "scl"
