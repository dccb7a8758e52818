"""Pickles of plain data are read; whatever a malicious one says, nothing runs."""

import builtins
import contextlib
import copyreg
import functools
import operator
import os
import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geotempo.data_builders.pickles import load_plain, loads_plain
from geotempo.model.errors import InputError

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner), max_leaves=20)


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


class Restored:
    def __getstate__(self):
        return {"path": "x"}


def attacks(marker):
    code = f"open({str(marker)!r}, 'w').close()"
    yield "os.system", Call(os.system, f"touch {marker}")
    yield "eval", Call(builtins.eval, code)
    yield "exec", Call(builtins.exec, code)
    yield "getattr", Call(builtins.getattr, Call(builtins.__import__, "os"), "system")
    yield "partial", Call(functools.partial, os.system, f"touch {marker}")
    yield "attrgetter", Call(operator.attrgetter, "system")
    yield "copyreg", Call(copyreg._reconstructor, dict, object, None)
    yield "numpy", np.zeros(3)
    yield "numpy scalar", np.float32(1)
    yield "set", {1, 2}
    yield "bytearray", bytearray(b"x")
    yield "object", Restored()


@pytest.mark.parametrize("protocol", range(6))
def test_malicious_pickles_are_refused_and_nothing_runs(tmp_path, protocol):
    marker = tmp_path / "it_ran"
    for name, attack in attacks(marker):
        path = tmp_path / "refs.p"
        path.write_bytes(pickle.dumps([{"ref_id": 1}, attack], protocol))
        with pytest.raises(InputError, match=r"names \S+\.\S+|uses the instruction") as caught:
            load_plain(path)
        assert "it was not run" in str(caught.value), name
    assert not marker.exists()


def test_the_same_pickles_do_run_elsewhere(tmp_path):
    marker = tmp_path / "it_ran"
    pickle.loads(pickle.dumps(Call(builtins.exec, f"open({str(marker)!r}, 'w').close()")))
    assert marker.exists()


def test_the_function_is_named():
    with pytest.raises(InputError, match=r"refs\.p names \w+\.system"):
        loads_plain(pickle.dumps(Call(os.system, "true"), 0), "refs.p")
    with pytest.raises(InputError, match=r"names builtins\.eval"):
        loads_plain(pickle.dumps(Call(builtins.eval, "1"), 4), "x")


@pytest.mark.parametrize(
    "steps",
    [
        b"(S'touch x'\nios\nsystem\n.",
        b"cos\nsystem\n(S'true'\ntR.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
        b"Pid\n.",
        b"Nq\x00Q.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02\x83\x01\x00.",
        b"]N}b.",
        b"](N)R.",
        b"\x80\x02]r\xff\xff\xff\x7f.",
        b"]p999999999999\n.",
        b"\x80\x05\x97.",
        b"\x80\x05]\x98.",
    ],
)
def test_raw_instructions_are_refused(steps):
    with pytest.raises(InputError):
        loads_plain(steps, "x")


def test_a_class_of_the_extension_registry_is_refused():
    copyreg.add_extension("os", "system", 241)
    try:
        with pytest.raises(InputError, match="EXT1"):
            loads_plain(b"\x80\x02\x82" + struct.pack("B", 241) + b".", "x")
    finally:
        copyreg.remove_extension("os", "system", 241)


@settings(max_examples=40, deadline=None)
@given(PLAIN, st.integers(0, 5))
def test_plain_data_comes_back(value, protocol):
    try:
        data = pickle.dumps(value, protocol)
        expected = pickle.loads(data)
        plain = b"_codecs" not in data and b"__builtin__" not in data  # bytes before protocol 3 are a call
    except (UnicodeEncodeError, ValueError):
        return
    if plain:
        assert loads_plain(data, "x") == expected


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_give_data_or_an_input_error(data):
    with contextlib.suppress(InputError):
        loads_plain(data, "x")


def test_text_of_python_2_is_read():
    assert loads_plain(b"(lp0\nS'abc'\np1\naV\\u00e9\np2\na.", "x") == ["abc", "\u00e9"]


def test_missing_and_cut_files_are_named(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        load_plain(tmp_path / "refs.p")
    with pytest.raises(InputError, match="no whole pickle"):
        loads_plain(pickle.dumps([1, "abc"] * 50)[:-30], "x")
