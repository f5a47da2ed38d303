"""A pattern matches a whole path, the first rule wins, and no rule is silently idle."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxinit._errors import RuleError
from jaxinit._paths import Name
from jaxinit._rules import (
    Rule,
    assign,
    compile_pattern,
    first_matches,
    listed,
    match,
    matches,
    select,
)

PARAMS = [
    *(f"backbone/layers_{i}/{leaf}" for i in range(12) for leaf in ("kernel", "bias")),
    "head/kernel",
    "head/bias",
]
NAMES = [*(Name("params", path) for path in PARAMS), Name("batch_stats", "head/mean")]


def chosen(patterns):
    return [name.full for name in select(patterns, NAMES)]


# What a pattern matches


def test_a_pattern_must_match_the_whole_path():
    assert chosen("head/bias") == ["head/bias"]
    for part in ("head", "bias", "head/bia"):
        with pytest.raises(RuleError, match="matches no leaf"):
            select(part, NAMES)


def test_a_pattern_without_a_colon_speaks_of_every_collection():
    assert chosen("head/.*") == ["head/kernel", "head/bias", "batch_stats:head/mean"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("params:head/.*", ["head/kernel", "head/bias"]),
        ("batch_stats:.*", ["batch_stats:head/mean"]),
        (r"batch_stats\:.*", ["batch_stats:head/mean"]),
        ("(?:params|batch_stats):head/(?:bias|mean)", ["head/bias", NAMES[-1].full]),
        # The colon of a group is syntax and names no collection.
        ("head/(?:bias|mean)", ["head/bias", "batch_stats:head/mean"]),
        ("(?i:HEAD)/bias", ["head/bias"]),
        # Here the parenthesis is text, and the colon after it as well.
        (r"params\(?:head/bias", ["head/bias"]),
    ],
)
def test_a_pattern_with_a_colon_names_the_collection(pattern, expected):
    assert chosen(pattern) == expected


def test_all_but_the_head_is_all_but_the_head():
    expected = [path for path in PARAMS if not path.startswith("head")]
    assert chosen("(?!head/).*") == expected
    assert "batch_stats:head/mean" not in chosen("(?!batch_stats:).*")


def test_a_path_that_contains_a_colon_is_matched_by_its_full_name():
    name = Name("params", "a:b/w")
    for pattern in (re.escape(name.full), "params:.*", ".*:.*w", ".*"):
        assert matches(compile_pattern(pattern), name)
    assert not matches(compile_pattern("a:b/w"), name)


def test_a_match_holds_the_groups_of_the_whole_name():
    pattern = compile_pattern("(?:params|batch_stats):(.*)/mean")
    assert match(pattern, NAMES[-1]).group(1) == "head"
    assert match(compile_pattern("hea"), NAMES[-1]) is None


def test_an_error_calls_a_rule_by_its_label():
    with pytest.raises(RuleError, match="the second rule: the pattern 'nosuch'"):
        first_matches(
            [(".*", 0), ("nosuch", 1)],
            NAMES,
            labels=["the first rule", "the second rule"],
        )


def test_a_compiled_pattern_keeps_its_flags():
    assert chosen(re.compile("HEAD/BIAS", re.IGNORECASE)) == ["head/bias"]


# Patterns that cannot be meant


@pytest.mark.parametrize(
    ("pattern", "remedy"),
    [
        ("*/kernel", "; this looks like a glob; write '.*/kernel'"),
        ("head/**", "; this looks like a glob; write 'head/.*'"),
        ("**.bias", "; this looks like a glob; write '.*.bias'"),
        ("(head", ""),
        ("[a-", ""),
    ],
)
def test_what_does_not_compile_is_an_error_with_a_remedy(pattern, remedy):
    with pytest.raises(RuleError) as raised:
        select(pattern, NAMES, argument="mask")
    start = f"mask: {pattern!r} is not a regular expression: "
    assert str(raised.value).startswith(start)
    assert str(raised.value).endswith(remedy)
    assert ("glob" in str(raised.value)) == bool(remedy)


@pytest.mark.parametrize("pattern", [3, None, b"head", re.compile(b"head")])
def test_a_pattern_is_text(pattern):
    with pytest.raises(RuleError, match=r"only\[1\]: a pattern is text, got"):
        select(["head/.*", pattern], NAMES)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("head/*", "; this looks like a glob; write 'head/.*'"),
        (
            "back*/layers_*/bias",
            "; this looks like a glob; write 'back.*/layers_.*/bias'",
        ),
        ("bakbone/*", "; this looks like a glob; did you mean 'backbone/.*'"),
        (
            "head",
            ": it must match the whole path and matches only a part of 'head/kernel'; "
            "write 'head/.*'",
        ),
        (
            "kernel|bias",
            ": it must match the whole path and matches only a part of "
            "'backbone/layers_0/kernel'; write '.*/(?:kernel|bias)'",
        ),
        (
            "layers_0",
            ": it must match the whole path and matches only a part of "
            "'backbone/layers_0/kernel'; write '.*/layers_0/.*'",
        ),
        (
            "(?i)HEAD",
            ": it must match the whole path and matches only a part of 'head/kernel'; "
            "write '(?i)HEAD/.*'",
        ),
        # Longer patterns in which a flag stands where it may not are left out.
        ("(?i)KERNEL|KERNAL", "; the leaves are "),
        ("bakbone/.*", "; did you mean 'backbone/.*'"),
        ("heads/kernal", "; did you mean 'head/kernel'"),
        (".*/kernl", "; did you mean '.*/kernel'"),
        ("(?P<at>.*)/kernl", "; did you mean '.*/kernel'"),
        ("params:head/kernal", "; did you mean 'params:head/kernel'"),
        ("batch_stat:.*", "; did you mean 'batch_stats:.*'"),
        ("xyz", "; the leaves are 'backbone/layers_{0..11}/kernel', "),
        ("", "; the leaves are "),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error_that_helps(pattern, reason):
    with pytest.raises(RuleError) as raised:
        select(pattern, NAMES)
    message = f"only: the pattern {pattern!r} matches no leaf{reason}"
    assert str(raised.value).startswith(message)


@pytest.mark.parametrize(
    "wrong",
    [
        r"conv\(1\)/kernal",
        r"cone\(1\)/.*",
        r".*/scale\?",
        "cach:.*",
        "cache:stack/inner/idx",
        "stock/inner/index",
        "linear/~/outt/w",
    ],
)
def test_every_suggestion_matches(wrong):
    paths = "conv(1)/kernel", "conv(1)/scale+", "linear/~/out/w"
    names = [*(Name("params", p) for p in paths), Name("cache", "stack/inner/index")]
    with pytest.raises(RuleError, match="did you mean") as raised:
        select(wrong, names)
    suggestions = re.findall(r"'(.*?)'", str(raised.value).partition("did you mean")[2])
    assert suggestions
    for suggestion in suggestions:
        assert select(suggestion.replace(r"\\", "\\"), names)


def test_without_leaves_nothing_is_suggested():
    with pytest.raises(RuleError, match="matches no leaf: there are no leaves"):
        select("head/.*", [])


# Selecting


def test_one_pattern_or_several_select_in_the_order_of_the_leaves():
    assert chosen(["head/bias", "head/kernel"]) == ["head/kernel", "head/bias"]
    assert select(None, NAMES) == tuple(NAMES)
    assert select([], NAMES) == ()
    assert select(iter(["head/bias"]), iter(NAMES)) == (Name("params", "head/bias"),)


def test_each_of_several_patterns_must_match():
    with pytest.raises(RuleError, match=r"only\[1\]: the pattern 'bakbone/.*' matches"):
        select(["head/.*", "bakbone/.*"], NAMES)
    assert select(["bakbone/.*"], NAMES, optional=True) == ()


def test_a_selection_is_a_pattern_or_a_list():
    with pytest.raises(RuleError, match="only must be a pattern or a list, got 3"):
        select(3, NAMES)


# Assigning


def test_the_first_rule_that_matches_wins():
    rules = [("head/bias", 0), ("head/.*", 1), (".*", 2)]
    found = assign(rules, NAMES)
    assert list(found) == NAMES
    assert found[Name("params", "head/bias")] == 0
    assert found[Name("params", "head/kernel")] == 1
    assert found[Name("batch_stats", "head/mean")] == 1
    assert found[Name("params", "backbone/layers_0/bias")] == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["a/.*", "b/.*", ".*/a", ".*/b", ".*"]), max_size=6))
def test_assigning_agrees_with_trying_the_rules_one_by_one(patterns):
    names = [Name("params", f"{x}/{y}") for x in "abc" for y in "abc"]
    expected = {}
    for name in names:
        for position, pattern in enumerate(patterns):
            if re.fullmatch(pattern, name.path):
                expected[name] = position
                break
    rules = [Rule(pattern, i, optional=True) for i, pattern in enumerate(patterns)]
    assert first_matches(rules, names) == expected
    assert assign(rules, names) == expected
    complete = {name: expected.get(name, "default") for name in names}
    assert assign(rules, names, default="default") == complete
    # Without `optional`, exactly the lists in which every rule wins somewhere pass.
    strict = list(enumerate(patterns))
    strict = [(pattern, i) for i, pattern in strict]
    if set(expected.values()) == set(range(len(patterns))):
        assert assign(strict, names) == expected
    else:
        with pytest.raises(RuleError):
            assign(strict, names)


def test_leaves_without_a_rule_are_left_out_or_get_the_default():
    assert list(assign([("head/bias", 1)], NAMES)) == [Name("params", "head/bias")]
    found = assign([("head/bias", 1)], NAMES, default=None)
    assert list(found) == NAMES
    assert found[NAMES[0]] is None


def test_an_incomplete_assignment_lists_what_is_missing():
    message = (
        "targets: no rule matches 25 of 27 leaves ('backbone/layers_{0..11}/kernel', "
        "'backbone/layers_{0..11}/bias', 'batch_stats:head/mean'); add rules for them, "
        "or end with ('.*', value)"
    )
    with pytest.raises(RuleError, match=re.escape(message)):
        assign([("params:head/.*", 1)], NAMES, argument="targets", complete=True)
    assert assign([(".*", 1)], NAMES, complete=True) == dict.fromkeys(NAMES, 1)
    assert assign([], NAMES, default=2, complete=True) == dict.fromkeys(NAMES, 2)


def test_a_rule_that_matches_nothing_is_an_error_unless_it_is_optional():
    rules = [("head/.*", 1), ("bakbone/.*", 2)]
    message = "targets[1]: the pattern 'bakbone/.*' matches no leaf; did you mean "
    with pytest.raises(RuleError, match=re.escape(message)):
        assign(rules, NAMES, argument="targets")
    rules = [Rule("bakbone/.*", 1, optional=True), Rule("head/bias", 2)]
    assert assign(rules, NAMES) == {Name("params", "head/bias"): 2}


def test_a_rule_behind_broader_ones_is_an_error_unless_it_is_optional():
    rules = [("head/.*", 1), (".*/kernel", 2), ("head/(?:kernel|bias)", 3)]
    message = (
        "rules[2]: the pattern 'head/(?:kernel|bias)' never applies, since the rules "
        "before it take all that it matches ('head/kernel', 'head/bias'); move it "
        "before 'head/.*' or remove it"
    )
    with pytest.raises(RuleError, match=re.escape(message)):
        assign(rules, NAMES)
    rules[2] = Rule(*rules[2], optional=True)
    assert assign(rules, NAMES)[Name("params", "head/bias")] == 1


def test_a_rule_that_keeps_one_leaf_to_itself_is_fine():
    rules = [("head/kernel", 1), ("head/.*", 2)]
    assert assign(rules, NAMES)[Name("params", "head/kernel")] == 1


def test_a_mapping_stands_for_its_items_and_an_iterator_is_read_once():
    expected = assign([("head/.*", 1), (".*", 2)], NAMES)
    assert assign({"head/.*": 1, ".*": 2}, NAMES) == expected
    assert assign(iter([("head/.*", 1), (".*", 2)]), iter(NAMES)) == expected


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            "head/.*",
            "targets must be a list of (pattern, value) pairs, got 'head/.*'; "
            "write [('head/.*', value)]",
        ),
        (3, "targets must be a list of (pattern, value) pairs, got 3; write [('head"),
        # Two texts are no pair, though each of them could be unpacked into two letters.
        (("ab", "cd"), "targets[0] must be a (pattern, value) pair, got 'ab'; write"),
        ([("a", 1, 2)], "targets[0] must be a (pattern, value) pair, got ('a', 1, 2)"),
        ([(3, "a")], "targets[0]: a pattern is text, got 3 (int)"),
        ([("*/a", 1)], "targets[0]: '*/a' is not a regular expression: "),
    ],
)
def test_what_is_not_a_list_of_pairs_is_an_error(rules, message):
    with pytest.raises(RuleError, match=re.escape(message)):
        assign(rules, NAMES, argument="targets")


def test_a_long_list_of_names_is_cut_and_counted():
    names = [Name("params", letter) for letter in "abcdefg"]
    assert listed(names) == "'a', 'b', 'c', 'd', 'e' and 2 more"
    assert listed(names[:5]) == "'a', 'b', 'c', 'd', 'e'"
