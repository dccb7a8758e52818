"""Products: recognised by their identifiers, and their documented band orders."""

import pytest

from geotempo.model.bands import LANDSAT_OLI, SENTINEL2
from geotempo.model.errors import InputError
from geotempo.model.products import PRODUCTS, baseline_of, day_of, names_of, product_named, product_of


@pytest.mark.parametrize(("text", "key", "baseline", "day"), [
    ("S2A_MSIL2A_20180320T105021_N0206_R051_T31UDQ_20180320T131011.SAFE", "sentinel-2-l2a", (2, 6), "2018-03-20"),
    ("S2C_MSIL1C_20250301T105021_N0511_R051_T31UDQ_20250301T131011", "sentinel-2-l1c", (5, 11), "2025-03-01"),
    ("S2A_OPER_MSI_L1C_TL_EPA__20160706T155721_A000849_T30UWU_B02.tif", "sentinel-2-l1c", None, "2016-07-06"),
    ("T31UDQ_20170829T105019_B02.tif", "sentinel-2-l1c", None, "2017-08-29"),
    ("T31UDQ_20170829T105019_B02_10m.jp2", "sentinel-2-l2a", None, "2017-08-29"),
    ("S2B_52SFA_20220126_0_L2A", "sentinel-2-l2a", None, "2022-01-26"),
    ("LC08_L2SP_044034_20200101_20200110_02_T1_SR_B4.TIF", "landsat-oli-c2-l2", None, "2020-01-01"),
    ("LT05_L2SP_044034_19950101_02_T1", "landsat-tm-c2-l2", None, "1995-01-01"),
    ("S1A_IW_GRDH_1SDV_20200101T000000_20200101T000025_030000_036000_ABCD", "sentinel-1-grd", None, "2020-01-01"),
    ("COPERNICUS/S2_SR_HARMONIZED", "sentinel-2-l2a", None, None),
    ("LC08_L1TP_044034_20200101_20200110_02_T1_B4.TIF", None, None, None),  # Level 1 is no surface reflectance
    ("S2A_MSIL2A_mosaic.tif", "sentinel-2-l2a", None, None),
    ("openEO_2023-06-01Z.tif", None, None, None),
    ("T31UDQ.tif", None, None, None),
])
def test_identifiers(text, key, baseline, day):
    found = product_of(["scene.tif", text, "data"])
    assert (found.key if found else None, baseline_of([text]), day_of([text])) == (key, baseline, day)


def test_unnamed_bands_get_the_documented_order():
    l1c, l2a, oli = (PRODUCTS[key] for key in ("sentinel-2-l1c", "sentinel-2-l2a", "landsat-oli-c2-l2"))
    assert names_of(l1c, "a.tif", [None] * 13)[8:11] == ("B8A", "B09", "B10")
    assert names_of(l2a, "a.tif", [None] * 12)[-3:] == ("B09", "B11", "B12")
    assert names_of(l2a, "a.tif", [None] * 13)[-1] == "SCL"
    assert names_of(oli, "a.tif", [None] * 8)[-1] == "QA_PIXEL"
    assert names_of(l2a, "a.tif", ["B04", None]) == ("B04", None), "own names stand, whatever the count"
    with pytest.raises(InputError, match=r"4 unnamed bands.*sentinel-2-l2a.*12: B01, B02.*--band-names"):
        names_of(l2a, "a.tif", [None] * 4)


def test_orders_and_schemes_agree():
    for product in PRODUCTS.values():
        for count, order in product.orders.items():
            assert len(order) == count == len(set(order)) and set(order) <= set(product.scheme), product.key
    assert SENTINEL2["B8A"] == "nir08" and LANDSAT_OLI["B5"] == "nir"


def test_unknown_product_offers_the_nearest():
    with pytest.raises(InputError, match=r"'sentinel2-l2a'; did you mean 'sentinel-2-l2a'\? allowed: .*naip"):
        product_named("sentinel2-l2a")
