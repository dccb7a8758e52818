"""Digital numbers become reflectance or decibels, and Sentinel-2's offset is applied once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geotempo.model.dates import AcquisitionDate
from geotempo.model.errors import InputError
from geotempo.model.metadata import BandFacts, Facts
from geotempo.model.products import PRODUCTS
from geotempo.model.radiometry import Evidence, calibrate

L2A, S1 = PRODUCTS["sentinel-2-l2a"], PRODUCTS["sentinel-1-grd"]
TRUTH = np.random.default_rng(0).uniform(0.02, 0.5, (20, 30))
HELD = np.rint(TRUTH * 10000 + 1000).astype(np.uint16)
TAKEN = np.rint(TRUTH * 10000).astype(np.uint16)
NEW_ID, OLD_ID = "S2A_MSIL2A_20220601T105021_N0400_R051_T31UDQ_20220601T131011", "S2A_MSIL2A_20200601T105021_N0214_R051_T31UDQ_x"


def evidence(values, product=L2A, *, role="red", said=BandFacts(), texts=(), properties=None, tags=None, date=None, offset=None):
    return Evidence("a.tif", product, Facts(tuple(texts), properties or {}, (), tags or {}), {0: said}, {0: role}, {0: values},
                    np.ones(values.shape, bool), AcquisitionDate(date) if date else None, offset)


def bright():
    """Values that could hold the offset or not: nothing but metadata tells."""
    return np.rint(np.random.default_rng(1).uniform(0.15, 0.5, (20, 30)) * 10000).astype(np.uint16)


CASES = {
    "earth search, taken off": ({"properties": {"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.09"},
                                 "said": BandFacts(scale=1e-4, offset=-0.1)}, 0),
    "earth search, not taken off": ({"properties": {"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "05.09"}}, -1000),
    "older spelling": ({"properties": {"sentinel:boa_offset_applied": True, "sentinel:processing_baseline": "04.00"}}, 0),
    "raster:bands": ({"said": BandFacts(scale=1e-4, offset=-0.1), "texts": [OLD_ID]}, -1000),
    "raster:bands without offset": ({"said": BandFacts(scale=1e-4, offset=0.0), "texts": [NEW_ID]}, 0),
    "Earth Engine": ({"texts": ["COPERNICUS/S2_SR_HARMONIZED"], "date": "2024"}, 0),
    "baseline of the item": ({"properties": {"s2:processing_baseline": "04.00"}, "date": "2019"}, -1000),
    "processing:version": ({"properties": {"processing:version": "05.11"}}, -1000),
    "old baseline": ({"properties": {"s2:processing_baseline": "03.01"}, "date": "2023"}, 0),
    "tag": ({"tags": {"PROCESSING_BASELINE": "04.00"}}, -1000),
    "identifier": ({"texts": ["clip.tif", NEW_ID]}, -1000),
    "old identifier": ({"texts": [OLD_ID], "date": "2023"}, 0),
    "reprocessed": ({"texts": ["S2A_MSIL2A_20180320T105021_N0500_R051_T31UDQ_x"], "date": "2018-03-20"}, -1000),
    "first naming": ({"texts": ["S2A_OPER_MSI_L1C_TL_EPA__20160706T155721_A000849_T30UWU_B02.tif"]}, 0),
    "the user": ({"offset": 0, "texts": [NEW_ID]}, 0),
    "the user, too": ({"offset": -1000, "properties": {"earthsearch:boa_offset_applied": True}}, -1000),
}


@pytest.mark.parametrize("name", CASES)
def test_the_first_authority_that_speaks_decides(name):
    given_, number = CASES[name]
    made = calibrate(evidence(bright(), **given_))
    assert made.unit == "reflectance" and made.offset[0] == pytest.approx(number * 1e-4)
    assert not any("ASSUMED" in note for note in made.notes), "metadata speak"
    assert made.apply(0, bright()) == pytest.approx((bright() + float(number)) / 10000, abs=1e-6)


@pytest.mark.parametrize(("date", "number"), [("2022-01-24", 0), ("2022-01-25", -1000), ("2023", -1000), ("2015-08-21", 0), (None, 0)])
def test_silent_metadata_are_said_to_be_silent(date, number):
    made = calibrate(evidence(bright(), date=date))
    assert made.offset[0] == pytest.approx(number * 1e-4)
    assert len(made.notes) == 1 and "ASSUMED" in made.notes[0] and "--offset" in made.notes[0]


@given(st.sampled_from(["properties", "texts", "said"]), st.sampled_from(["properties", "flag", "collection", "said"]))
def test_a_mixed_sequence_comes_out_equal(held_by, taken_by):
    held = {"properties": {"properties": {"s2:processing_baseline": "04.00"}}, "texts": {"texts": [NEW_ID]},
            "said": {"said": BandFacts(scale=1e-4, offset=-0.1)}}[held_by]
    taken = {"properties": {"properties": {"s2:processing_baseline": "02.14"}}, "collection": {"texts": ["S2_SR_HARMONIZED", NEW_ID]},
             "flag": {"properties": {"earthsearch:boa_offset_applied": True, "s2:processing_baseline": "05.00"}},
             "said": {"said": BandFacts(scale=1e-4, offset=0.0)}}[taken_by]
    one = calibrate(evidence(HELD, **held)).apply(0, HELD)
    two = calibrate(evidence(TAKEN, **taken)).apply(0, TAKEN)
    assert np.abs(one - two).max() < 1e-6 and np.abs(one - TRUTH).max() < 1e-4


def test_values_that_cannot_hold_the_offset_are_not_shifted():
    wrong = {"earthsearch:boa_offset_applied": False, "s2:processing_baseline": "05.09"}  # as catalogues are known to say
    made = calibrate(evidence(TAKEN // 5, properties=wrong))
    assert made.offset[0] == 0 and "not applied" in made.notes[0] and "05.09" in made.notes[0]
    assert calibrate(evidence(TAKEN // 5, properties=wrong, offset=-1000)).offset[0] == pytest.approx(-0.1), "the user's word stands"
    water = np.full((20, 30), 950, np.uint16)
    assert calibrate(evidence(water, properties=wrong)).offset[0] == pytest.approx(-0.1), "dark water is a little negative"


def test_nodata_is_no_value_and_does_not_vote():
    values = HELD.copy()
    values[:12] = 0
    made = calibrate(evidence(values, texts=[NEW_ID]))
    shown = made.apply(0, values)
    assert np.isnan(shown[:12]).all() and shown[12:] == pytest.approx(TRUTH[12:], abs=1e-4)


def test_decimal_reflectance_stays():
    made = calibrate(evidence(TRUTH.astype(np.float32), texts=[NEW_ID]))
    assert made.apply(0, TRUTH.astype(np.float32)) == pytest.approx(TRUTH) and "as they stand" in made.notes[0]
    whole = HELD.astype(np.float32)  # digital numbers kept as floats
    assert calibrate(evidence(whole, texts=[NEW_ID])).apply(0, whole) == pytest.approx(TRUTH, abs=1e-4)


def test_landsat():
    made = calibrate(evidence(np.array([[0, 7273, 43636]], np.uint16), PRODUCTS["landsat-oli-c2-l2"]))
    assert made.apply(0, np.array([[0, 7273, 43636]], np.uint16))[0, 1:] == pytest.approx([0, 1], abs=1e-4)
    assert np.isnan(made.apply(0, np.array([[0]], np.uint16))).all() and made.unit == "reflectance"


def test_backscatter_in_power_decibels_and_amplitude():
    power = np.random.default_rng(0).gamma(2, 0.05, (30, 30)).astype(np.float32)
    power[0, 0] = 0
    made = calibrate(evidence(power, S1, role="vv"))
    shown = made.apply(0, power)
    assert made.unit == "dB" and np.isnan(shown[0, 0]) and shown[1, 1] == pytest.approx(10 * np.log10(power[1, 1]))
    decibels = calibrate(evidence(shown[1:], S1, role="vv"))
    assert decibels.unit == "dB" and decibels.apply(0, shown[1:]) == pytest.approx(shown[1:])
    amplitude = calibrate(evidence(np.full((4, 4), 100, np.uint16), S1, role="vv"))
    assert amplitude.unit == "amplitude dB" and amplitude.apply(0, np.array([[0, 100]], np.uint16))[0, 1] == pytest.approx(40)
    assert "uncalibrated" in amplitude.notes[0]


def test_values_of_no_known_product_follow_their_tags():
    values = np.full((4, 4), 200, np.uint16)
    assert calibrate(evidence(values, None)).as_is
    tagged = calibrate(evidence(values, None, said=BandFacts(scale=0.5, offset=1.0)))
    assert tagged.unit == "number" and (tagged.apply(0, values) == 101).all()
    assert calibrate(evidence(values.astype(np.uint8), None)).unit == "display"


def test_an_offset_for_something_else_is_refused():
    for product in (None, S1, PRODUCTS["landsat-tm-c2-l2"]):
        with pytest.raises(InputError, match=r"--offset.*a\.tif.*--product"):
            calibrate(evidence(HELD, product, offset=0))
