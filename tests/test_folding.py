"""Folding loses no path and invents none; shortening never makes two paths alike."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxinit._folding import fitted, fold_paths, fold_rows, skeleton

QUICK = settings(max_examples=100, deadline=None)


def expanded(folded):
    """Every path that a folded one stands for, by the meaning of braces alone."""
    parts = re.split(r"\{([0-9.,]*)\}", folded)
    choices = []
    for position, part in enumerate(parts):
        if position % 2 == 0:
            choices.append([part])
            continue
        numbers = []
        for run in part.split(","):
            first, _, last = run.partition("..")
            numbers += map(str, range(int(first), int(last or first) + 1))
        choices.append(numbers)
    return ["".join(choice) for choice in itertools.product(*choices)]


numbered = st.builds(
    "{}{}/{}{}".format,
    st.sampled_from(["h", "w_"]),
    st.integers(0, 4),
    st.sampled_from(["a", "b"]),
    st.integers(9, 12),
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("encoder/layers_0/kernel", ("encoder/layers_{}/kernel", (0,))),
        ("h/3/conv2d_12", ("h/{}/conv{}d_{}", (3, 2, 12))),
        ("h/007", ("h/007", ())),
        ("a{}0", ("a{{}}{}", (0,))),
        ("x" + "9" * 5000, ("x" + "9" * 5000, ())),
        ("", ("", ())),
    ],
)
def test_a_skeleton_has_the_numbers_taken_out(path, expected):
    assert skeleton(path) == expected


@QUICK
@given(st.text("a0179/{}_", max_size=12))
def test_a_skeleton_and_its_numbers_give_the_path_back(path):
    text, numbers = skeleton(path)
    assert text.format(*numbers) == path


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([f"layers_{i}/w" for i in range(12)], ["layers_{0..11}/w"]),
        (["h/0", "h/1"], ["h/{0,1}"]),
        (["h/5", "h/0", "h/1", "h/2", "h/7", "h/8"], ["h/{0..2,5,7,8}"]),
        (["h/3"], ["h/3"]),
        (["h/0/w", "head", "h/1/w"], ["h/{0,1}/w", "head"]),
        # Blocks of equal depth share a text, one of another depth does not.
        (
            ["s0/b0", "s0/b1", "s1/b0", "s2/b0", "s2/b1"],
            ["s{0,2}/b{0,1}", "s1/b0"],
        ),
        # Numbers that rise together are not all combinations of them.
        (["a0/b0", "a1/b1"], ["a0/b0", "a1/b1"]),
        (["h/01", "h/1"], ["h/01", "h/1"]),
        (["h/0", "h/0", "h/1"], ["h/{0,1}", "h/0"]),
        ([], []),
    ],
)
def test_folded_paths(paths, expected):
    assert fold_paths(paths) == expected


@QUICK
@given(st.lists(numbered, max_size=20))
def test_folded_paths_stand_for_exactly_the_paths(paths):
    folds = fold_rows([(path,) for path in paths])
    assert sorted(i for fold in folds for i in fold.members) == [*range(len(paths))]
    for fold in folds:
        found = [paths[i] for i in fold.members]
        assert sorted(expanded(fold.texts[0])) == sorted(found)
    firsts = [fold.members[0] for fold in folds]
    assert firsts == sorted(firsts)


@QUICK
@given(st.lists(st.tuples(numbered, numbered), max_size=12), st.integers(1, 3))
def test_rows_fold_only_where_everything_else_is_equal(rows, kinds):
    others = [i % kinds for i in range(len(rows))]
    folds = fold_rows(rows, others)
    assert sorted(i for fold in folds for i in fold.members) == [*range(len(rows))]
    for fold in folds:
        assert len({others[i] for i in fold.members}) == 1
        leads, follows = zip(*(rows[i] for i in fold.members), strict=True)
        assert sorted(expanded(fold.texts[0])) == sorted(leads)
        assert set(expanded(fold.texts[1])) == set(follows)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # A source one ahead of its target runs alongside.
        ([(f"h_{i}", f"l.{i + 1}") for i in range(3)], [("h_{0..2}", "l.{1..3}")]),
        ([("h_0", "w"), ("h_1", "w")], [("h_{0,1}", "w")]),
        # Reversed, or at another pace, each row says its own.
        ([("h_0", "l.1"), ("h_1", "l.0")], [("h_0", "l.1"), ("h_1", "l.0")]),
        ([("h_0", "l.0"), ("h_1", "l.2")], [("h_0", "l.0"), ("h_1", "l.2")]),
        # Two numbers of one path that follow the same one would read as four paths.
        ([("h_0", "l0.0"), ("h_1", "l1.1")], [("h_0", "l0.0"), ("h_1", "l1.1")]),
        (
            [(f"s{i}/b{j}", f"l{i + 1}.{j}") for i in range(2) for j in range(3)],
            [("s{0,1}/b{0..2}", "l{1,2}.{0..2}")],
        ),
    ],
)
def test_a_second_path_folds_where_it_runs_alongside(rows, expected):
    assert [fold.texts for fold in fold_rows(rows)] == expected


# Shortening

LAYER = "encoder/layers_{0..11}/attention/query/kernel"


@pytest.mark.parametrize(
    ("path", "width", "expected"),
    [
        (LAYER, 45, LAYER),
        (LAYER, 40, "…/layers_{0..11}/attention/query/kernel"),
        (LAYER, 38, "…/layers_{0..11}/…/query/kernel"),
        (LAYER, 30, "…/layers_{0..11}/…/kernel"),
        (LAYER, 20, "…/layers_{0..11}/…/\nkernel"),
        ("encoder.layer.{0..11}.query.weight", 20, "…{0..11}…weight"),
        ("encoder.layer.{0..11}.query.weight", 12, "…{0..11}…\nweight"),
        ("kernel_with_a_long_name", 5, "kernel_with_a_long_name"),
    ],
)
def test_a_path_loses_keys_without_numbers_and_then_breaks(path, width, expected):
    assert fitted([path], width) == {path: expected}


def test_what_all_paths_have_goes_first():
    paths = ["body/self/query/kernel", "body/self/value/kernel", "body/mlp/out/kernel"]
    assert list(fitted(paths, 16).values()) == [
        "…/query/kernel",
        "…/value/kernel",
        "…/mlp/out/kernel",
    ]


def test_what_tells_paths_apart_goes_last():
    paths = ["query/projection/kernel", "value/projection/kernel"]
    assert list(fitted(paths, 16).values()) == ["query/…/kernel", "value/…/kernel"]


def test_paths_that_would_look_alike_stay_whole():
    paths = ["a/query/kernel", "a/value/kernel", "head/bias"]
    assert fitted(paths, 10) == {
        "a/query/kernel": "a/query/\nkernel",
        "a/value/kernel": "a/value/\nkernel",
        "head/bias": "head/bias",
    }


@QUICK
@given(
    st.lists(
        st.lists(st.sampled_from(["ab", "c0", "def", "g"]), min_size=1, max_size=5)
    ),
    st.integers(2, 12),
)
def test_shortened_paths_can_be_told_apart(paths, width):
    paths = {"/".join(keys) for keys in paths}
    texts = fitted(paths, width)
    assert set(texts) == paths
    assert len(set(texts.values())) == len(paths)
    for line in "\n".join(texts.values()).split("\n"):
        assert len(line) <= width or "/" not in line[:-1]


def test_the_first_path_that_is_not_empty_leads():
    rows = [("", "h/0/w"), ("head", ""), ("", "h/1/w")]
    folded = [(fold.texts, fold.members) for fold in fold_rows(rows)]
    assert folded == [(("", "h/{0,1}/w"), (0, 2)), (("head", ""), (1,))]
