"""Nested sections by dotted names."""

from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from compressor.dotted import dotted

NAMES = st.text("abc", min_size=1, max_size=3)
LEAVES = st.none() | st.integers() | st.lists(st.integers(), max_size=2)


def test_sections_and_lists_of_sections_are_named_by_the_way_to_them():
    given = {"train": {"lr": 0.1, "schedule": {"at": [1, 2]}}, "export": [{"format": "onnx"}, {"format": "trt"}]}

    assert dotted(given) == {
        "train.lr": 0.1,
        "train.schedule.at": [1, 2],
        "export.0.format": "onnx",
        "export.1.format": "trt",
    }
    assert dotted({"a": MappingProxyType({"b": ({"c": 1},)})}) == {"a.b.0.c": 1}


def test_what_is_empty_or_null_stays():
    assert dotted({"a": {}, "b": [], "c": None, "d": {"e": {}}}) == {"a": {}, "b": [], "c": None, "d.e": {}}
    assert dotted({}) == {}


@given(st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, max_size=3), max_leaves=9))
def test_every_leaf_has_a_name_and_is_found_by_it(tree):
    tree = tree if isinstance(tree, dict) else {"a": tree}

    found = dotted(tree)

    def leaves(value):
        return sum(map(leaves, value.values())) if isinstance(value, dict) and value else 1

    assert len(found) == (leaves(tree) if tree else 0)
    for name, leaf in found.items():
        place = tree
        for key in name.split("."):
            place = place[key]
        assert place == leaf
