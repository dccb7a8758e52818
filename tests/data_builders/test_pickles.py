"""Pickles of datasets: plain data comes through, and nothing that a malicious one asks for is run."""

import builtins
import collections
import copyreg
import functools
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geotempo.data_builders.pickles import load_plain
from geotempo.model.errors import LayoutError

PLAIN = st.recursive(st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
                     lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner), max_leaves=20)


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@given(value=PLAIN, protocol=st.integers(0, 5))
def test_plain_data_comes_back(tmp_path_factory, value, protocol):
    path = tmp_path_factory.getbasetemp() / "plain.p"
    path.write_bytes(pickle.dumps(value, protocol))
    assert load_plain(path) == value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("what", ["system", "eval", "exec", "getattr", "partial", "open", "ordered", "numpy", "nested", "set_state"])
def test_nothing_of_a_malicious_pickle_runs(tmp_path, monkeypatch, what, protocol):
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "ran"
    evil = {
        "system": Calls(os.system, f"touch {marker}"),
        "eval": Calls(eval, f"open({str(marker)!r}, 'w')"),
        "exec": Calls(exec, f"open({str(marker)!r}, 'w')"),
        "getattr": Calls(getattr, os, "system") if protocol < 0 else Calls(builtins.getattr, Calls(__import__, "os"), "system"),
        "partial": functools.partial(os.system, f"touch {marker}"),
        "open": Calls(open, str(marker), "w"),
        "ordered": collections.OrderedDict(a=1),
        "numpy": np.arange(3),
        "nested": [{"sentences": [1, ("x", Calls(os.mkdir, str(marker)))]}],
        "set_state": Calls(copyreg.__newobj__, collections.Counter) if protocol < 2 else collections.Counter(a=1),
    }[what]
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps(evil, protocol))
    with pytest.raises(LayoutError, match=r"refs\(unc\)\.p is refused: it asks for [\w.]+; a pickle of a dataset may hold"):
        load_plain(path)
    assert not marker.exists()


def test_extension_codes_and_persistent_objects_are_refused(tmp_path):
    copyreg.add_extension("os", "system", 240)
    try:
        (tmp_path / "a.p").write_bytes(b"\x80\x02\x82\xf0(X\x04\x00\x00\x00truetR.")
        with pytest.raises(LayoutError, match=r"refused: it asks for os\.system"):
            load_plain(tmp_path / "a.p")
    finally:
        copyreg.remove_extension("os", "system", 240)
    (tmp_path / "b.p").write_bytes(b"Pwhatever\n.")
    with pytest.raises(LayoutError, match="refused: it asks for the persistent object 'whatever'"):
        load_plain(tmp_path / "b.p")


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps([1, 2, 3])[:-3], b"\x80\x05\x95\xff\xff\xff\xff\xff\xff\xff\x7f."])
def test_a_broken_pickle_is_one_line(tmp_path, data):
    (tmp_path / "a.p").write_bytes(data)
    with pytest.raises(LayoutError) as error:
        load_plain(tmp_path / "a.p")
    assert "a.p" in str(error.value)
    with pytest.raises(LayoutError, match="cannot read"):
        load_plain(tmp_path / "none.p")
