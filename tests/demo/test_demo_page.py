"""The page stands alone and claims no more than was measured."""

import base64
import html.parser
import io
import json
import re

import demo_cases
import numpy as np
import pytest
from demo_cases import LABELS, MEANS
from PIL import Image
from rich.console import Console

from jaxinit.demo import _experiment, _page, _summary


@pytest.fixture(scope="module")
def page():
    return _page.page(demo_cases.found())


@pytest.fixture
def plain(monkeypatch):
    demo_cases.without_pictures(monkeypatch)


class Links(html.parser.HTMLParser):
    """What a page would have to fetch, and what it would run."""

    def __init__(self):
        super().__init__()
        self.fetched, self.tags = [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        wanted = {"src", "srcset", "href", "data", "poster", "action"}
        self.fetched += [value for name, value in attrs if name in wanted]


def outside(text):
    """Everything in a page that lies outside of it."""
    links = Links()
    links.feed(text)
    found = [each for each in links.fetched if not each.startswith("data:image/png;")]
    found += re.findall(r"https?://\S+|@import|url\([^)]*\)", text)
    return [*found, *({"script", "link", "iframe", "object"} & links.tags)]


def test_the_page_needs_no_other_file(page):
    assert not outside(page)
    assert page.count("data:image/png;base64,") == 10


@pytest.mark.parametrize(
    "planted",
    [
        '<img src="plot.png">',
        '<link rel="stylesheet" href="style.css">',
        "<script>1</script>",
        "<p>see http://example.org/</p>",
        "<style>@import 'a.css';</style>",
    ],
)
def test_what_lies_outside_is_noticed(page, planted):
    assert outside(page.replace("</main>", planted + "</main>"))


def test_every_picture_is_there_for_light_and_for_dark(page):
    texts = re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", page)
    images = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("L"))
        for text in texts
    ]
    for dark, light in zip(images[::2], images[1::2], strict=True):
        assert dark.shape == light.shape
        assert dark[0, 0] < 50 < 200 < light[0, 0]
        assert light.std() > 5  # something was drawn
    assert "prefers-color-scheme: dark" in page
    assert "width=device-width" in page


def test_the_table_has_each_mean_and_spread(page):
    for name, mean in MEANS.items():
        row = re.search(
            rf"<tr><td>(?:. )?{re.escape(name.strip())}</td>.*?</tr>", page, re.S
        )
        assert row[0].count(f"{mean:.3f} ± 0.010") == len(LABELS)


@pytest.mark.usefixtures("plain")
def test_what_a_user_calls_a_class_is_no_markup():
    text = _page.page(demo_cases.found(given=demo_cases.task("<script>alert</script>")))
    assert not outside(text)
    assert "&lt;script&gt;" in text


def test_the_headline_says_every_baseline_only_if_it_was_every_one():
    won = _page.headline(demo_cases.found())
    assert "beat every baseline" in won
    close = {**MEANS, _experiment.SMALL: 0.965}
    said = _page.headline(demo_cases.found(means=close))
    assert "in 6 of 9 comparisons" in said
    assert "every baseline" not in said


def test_a_step_within_the_spread_is_reported_as_one(page):
    assert page.count("within the spread") == len(LABELS)  # unfreezing, on each line
    assert "+0.010 against ±0.020: within the spread" in page


@pytest.mark.usefixtures("plain")
def test_photographs_that_were_decoded_otherwise_are_said_to_be():
    found = demo_cases.found()
    proof = found.proof.__class__(**{**vars(found.proof), "same_pictures": False})
    changed = found.__class__(**{**vars(found), "proof": proof})
    assert "decoded otherwise" in _page.page(changed)
    assert "decoded otherwise" not in _page.page(found)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("options", "sound"),
    [({}, True), ({"relative": 1e-3}, False), ({"identical": False}, False)],
)
def test_what_must_be_exact_and_is_not_is_a_finding(options, sound):
    found = demo_cases.found(**options)
    assert found.sound is sound
    assert ("not the same bits" in _page.page(found).lower()) == (
        options.get("identical") is False
    )


def test_the_summary_fits_into_80_columns(tmp_path):
    console = Console(width=80, file=io.StringIO(), highlight=False)
    console.print(_summary.summary(demo_cases.found(), tmp_path / "r.html"))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if line.startswith(_experiment.RECIPE)]
    assert rows[0].count("0.980 ± 0.010") == len(LABELS)
    assert "…" not in console.file.getvalue()


def test_a_narrow_summary_cuts_no_number():
    console = Console(width=40, file=io.StringIO(), highlight=False)
    console.print(_summary.summary(demo_cases.found(), "r.html"))
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 40
    assert "…" not in text
    assert text.count("0.980") == text.count("0.700") == len(LABELS)


def test_the_numbers_for_programs_are_json():
    found = demo_cases.found()
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["accuracies"][_experiment.SMALL]["5"] == list(
        found.experiment.scores[_experiment.SMALL, 5].values
    )
    against = [each for each in data["verdicts"] if each["ours"] == _experiment.RECIPE]
    assert [each["beats"] for each in against] == [True, True, True, False] * 3
