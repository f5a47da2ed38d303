"""Rules from JSON: each is the rule that Python builds, and mistakes are named."""

import json

import pytest

from jaxinit import initializers
from jaxinit import transfer as tr
from jaxinit._errors import RuleError

inflate = tr.adapters.inflate_channels
SAME = [
    ({"drop": "step", "reason": "new"}, tr.drop("step", reason="new")),
    ({"rename": "a/(.*)", "replacement": "b/\\1"}, tr.rename("a/(.*)", r"b/\1")),
    ({"rename": "a", "replacement": ["b", "c"]}, tr.rename("a", ["b", "c"])),
    (
        {
            "split": "qkv",
            "replacements": ["q", "k", "v"],
            "axis": 0,
            "sizes": [4, 2, 2],
        },
        tr.split("qkv", ["q", "k", "v"], axis=0, sizes=[4, 2, 2]),
    ),
    (
        {"fuse": ["a", "b"], "replacement": "c", "axis": -1, "optional": True},
        tr.fuse(["a", "b"], "c", axis=-1, optional=True),
    ),
    (
        {"stack": "h/(\\d+)/(.*)", "replacement": "h/\\2", "first": 1},
        tr.stack(r"h/(\d+)/(.*)", r"h/\2", first=1),
    ),
    (
        {"unstack": "h/(.*)", "replacement": "h_{layer}/\\1", "axis": 1},
        tr.unstack("h/(.*)", r"h_{layer}/\1", axis=1),
    ),
    ({"layout": "w", "transpose": [1, 0]}, tr.layout("w", transpose=(1, 0))),
    ({"layout": "w", "reshape": True}, tr.layout("w", reshape=True)),
    ({"torch_layout": ".*"}, tr.torch_layout()),
    ({"torch_layout": ".*", "transposed": "up"}, tr.torch_layout(transposed="up")),
    (
        {"adapt": "w", "adapter": "inflate_channels", "channels": 1, "mode": "sum"},
        tr.adapt("w", inflate, channels=1, mode="sum"),
    ),
    ({"keep": "head/.*"}, tr.keep("head/.*")),
    ({"draw": "w", "initializer": "zeros"}, tr.draw("w", initializers.zeros)),
    (
        {"draw": "w", "initializer": "scaled(he_normal(in_axis=0), 0.5)"},
        tr.draw("w", initializers.scaled(initializers.he_normal(in_axis=0), 0.5)),
    ),
]


@pytest.mark.parametrize(("written", "built"), SAME, ids=lambda x: str(x)[:30])
def test_a_rule_of_json_is_the_rule_of_python(written, built):
    assert tr.rules_from_json(json.dumps([written])) == [built]


def test_every_rule_is_tried_above():
    tried = {next(iter(written)) for written, _ in SAME}
    rules = set(tr.__all__) - {"adapters"}
    kinds = {name for name in rules if name in str(tried)}
    assert kinds == tried
    assert len(tried) == 11


MISTAKES = [
    ("[", "rules are not JSON: line 1, column 2"),
    (r'[{"rename": "a\d"}]', r"a backslash is written twice in JSON, \\1 and \\d"),
    ('{"drop": "a"}', "rules must be a JSON list of objects, got {'drop': 'a'}"),
    ('["torch_layout"]', "rules[0] must be an object"),
    ('[{"drop": "a"}, {"renam": "a"}]', "rules[1] must name one rule of drop"),
    ('[{"renam": "a"}]', "did you mean 'rename'?"),
    ('[{"drop": "a", "keep": "b"}]', "it names both drop and keep"),
    ('[{"drop": "a", "drop": "b"}]', "'drop' stands twice in one object"),
    ('[{"rename": "a"}]', "rules[0], rename: needs 'replacement'"),
    ('[{"rename": "a", "replacment": "b"}]', "did you mean 'replacement'?"),
    ('[{"drop": "(a"}]', "'(a' is not a regular expression"),
    ('[{"drop": "head/*"}]'.replace("head/*", "*a"), "looks like a glob"),
    ('[{"drop": 3}]', "a pattern is text, got 3"),
    ('[{"drop": "a", "optional": "yes"}]', "optional must be true or false"),
    ('[{"layout": "a", "transpose": "10"}]', "transpose must be a list of numbers"),
    ('[{"split": "a", "replacements": ["b", "c"], "axis": "0"}]', "a whole number"),
    ('[{"split": "a", "replacements": ["b", "c"], "axis": true}]', "a whole number"),
    ('[{"fuse": "a", "replacement": "b", "axis": 0}]', "patterns must be a list"),
    ('[{"rename": "a", "replacement": 3}]', "a replacement is text or a function"),
    ('[{"adapt": "a", "adapter": "inflate"}]', "no adapter 'inflate'; "),
    (
        '[{"adapt": "a", "adapter": "inflate_channels", "chanels": 1}]',
        "adapter inflate_channels has no option 'chanels'",
    ),
    ('[{"draw": "a", "initializer": "he_norml()"}]', "did you mean 'he_normal'?"),
    (
        '[{"draw": "a", "initializer": "he_normal"}]',
        "must be a call; write 'he_normal()",
    ),
    ('[{"draw": "a", "initializer": "normal(0.1"}]', "cannot be built"),
    ('[{"draw": "a", "initializer": "normal(stdev=1)"}]', "cannot be built"),
    ('[{"draw": "a", "initializer": "fans((3, 2))"}]', "must be a call"),
    ('[{"draw": "a", "initializer": 3}]', "initializer must be a text, got 3"),
    ('[{"draw": "a", "initializer": null}]', "initializer must be a text, got None"),
    ('[{"split": "a", "replacements": null, "axis": 0}]', "must be a list of texts"),
    (
        '[{"adapt": "a", "adapter": "inflate_depth", "pattern": "b"}]',
        "there is no option 'pattern'",
    ),
    (
        """[{"draw": "a", "initializer": "constant(__import__('os').getpid())"}]""",
        "cannot be built",
    ),
    ("[" * 100_000, "nested too deeply"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=lambda x: x[:40])
def test_a_mistake_is_named(text, message):
    with pytest.raises(RuleError) as caught:
        tr.rules_from_json(text)
    assert message in str(caught.value)


def test_null_is_what_an_option_is_that_is_left_out():
    (rule,) = tr.rules_from_json('[{"layout": "a", "transpose": null, "flip": [0]}]')
    assert rule == tr.layout("a", flip=[0])
