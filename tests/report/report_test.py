"""The report: right numbers, every figure, any state of a run, and no trust in model text."""

import dataclasses
import functools
import html.parser
import json
import pathlib
import re
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

import pyarrow.parquet as pq
from absl.testing import absltest, parameterized

from restem import records
from restem.errors import UserError
from restem.evaluation import paired_tests
from restem.report import browser, page, paper_figures, plotting, run_figures
from restem.report.headline import headline
from restem.report.report import report
from restem.run import layout
from restem.run.reader import read_run
from restem.runtime import storage
from tests.helpers import chromium, synthetic_run

SMALL = {"problems": 24, "samples": 6, "tests": 60, "n": 4}
ROOT = pathlib.Path(tempfile.mkdtemp(prefix="restem_report"))


def setUpModule():
    synthetic_run.write_run(ROOT / "restem", with_bbh=True, **SMALL)
    synthetic_run.write_run(ROOT / "sft", method="sft", skills=(-0.8, 0.2), **SMALL)
    synthetic_run.write_run(ROOT / "hostile", hostile=True, skills=(-0.8, 0.5), **SMALL)


def tearDownModule():
    for path in sorted(ROOT.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    ROOT.rmdir()


@functools.cache
def main_page() -> str:
    """One run, few and short samples embedded."""
    return report(workdirs=[str(ROOT / "restem")], max_samples=60, max_characters=80)


@functools.cache
def hostile_page() -> str:
    """Two runs, of which one attacks."""
    return report(
        workdirs=[str(ROOT / "hostile"), str(ROOT / "sft")],
        labels=[synthetic_run.HOSTILE, "sft"],
        max_samples=160,
    )


class Parsed(html.parser.HTMLParser):
    """What a page holds that matters here."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self._scripts: list[str] = []
        self._inside: str | None = None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self._scripts.append("")

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "script":
            self._scripts[-1] += data
        elif self._inside != "style":
            self.text.append(data)

    def data(self) -> dict:
        """The samples that the page carries."""
        position = [a.get("type") for t, a in self.tags if t == "script"].index("application/json")
        return json.loads(self._scripts[position])

    @property
    def ids(self) -> list[str]:
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]


class WholeReportTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.index = main_page()
        cls.html = pathlib.Path(cls.index).read_text("utf-8")
        cls.page = Parsed(cls.html)
        cls.subject = read_run(str(ROOT / "restem"))

    def test_is_where_the_design_says(self):
        self.assertEqual(self.index, str(ROOT / "restem" / "report" / "index.html"))

    def test_stands_alone(self):
        """No address but the SVG namespaces and the figures beside the page."""
        addresses = set(re.findall(r"(?:https?:)?//[\w.-]+\.\w+[^\s\"'<>]*", self.html))
        self.assertLessEqual(
            addresses, {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        )
        for tag, attributes in self.page.tags:
            if tag != "a":
                self.assertTrue(attributes.get("href", "#").startswith(("#", "data:")), attributes)
            self.assertNotIn("src", attributes)

    def test_every_figure_is_a_readable_svg_and_png(self):
        keys = [a["id"] for t, a in self.page.tags if t == "figure" and "id" in a]
        want = {
            "pass1_over_iterations", "train_test_gap", "pass_at_k", "difficulty", "bbh",
            "where_samples_went", "solved_problems", "lengths", "rewards", "cost", "m_step",
        }  # fmt: skip
        self.assertEqual(set(keys), want)
        folder = ROOT / "restem" / "report" / "figures"
        for key in keys:
            drawing = ElementTree.parse(folder / f"{key}.svg").getroot()
            self.assertTrue(drawing.tag.endswith("svg"))
            self.assertEqual((folder / f"{key}.png").read_bytes()[:8], b"\x89PNG\r\n\x1a\n")
        self.assertLen(list(folder.iterdir()), 2 * len(keys))

    def test_links_lead_somewhere(self):
        for tag, attributes in self.page.tags:
            target = attributes.get("href", "") if tag == "a" else ""
            if target.startswith("#"):
                self.assertIn(target[1:], self.page.ids)
            elif target:
                self.assertTrue((ROOT / "restem" / "report" / target).exists(), target)

    def test_identifiers_are_unique_and_references_hold(self):
        ids = self.page.ids
        self.assertLen(set(ids), len(ids))
        for name in re.findall(r"url\(#([^)]+)\)", self.html):
            self.assertIn(name, ids)
        for _, attributes in self.page.tags:
            reference = attributes.get("xlink:href", "")
            self.assertTrue(not reference or reference[1:] in ids, reference)

    def test_names_the_paper_figures(self):
        text = " ".join(self.page.text)
        for figure in ("Figures 2 and 3", "Figure 4", "Figure 5", "Figures 6 and 7",
                       "Figure 8, left", "Figure 8, right", "Figure 9"):  # fmt: skip
            self.assertIn(f"{figure} of the paper", text)
        self.assertIn("Figures left out", text)
        self.assertIn("Needs two runs", text)

    def test_headline_is_the_policy_that_validation_chose(self):
        evals = [storage.read_json(layout.Workdir(str(ROOT / "restem")).iteration(i).evaluation(
            "arithmetic")) for i in range(4)]  # fmt: skip
        head = headline([self.subject])
        self.assertEqual(head.before, f"{100 * evals[0]['pass@1']:.1f}%")
        self.assertEqual(head.after, f"{100 * evals[2]['pass@1']:.1f}%")
        self.assertIn("iteration 2 (chosen by validation)", head.sentence)
        self.assertEqual(head.table.chosen, (2,))
        self.assertIn(head.after, " ".join(self.page.text))

    def test_the_difference_is_tested_on_pairs(self):
        scores = []
        for i in (0, 2):
            path = layout.Workdir(str(ROOT / "restem")).iteration(i).answers("arithmetic")
            answers = records.samples_from_table(pq.read_table(str(path)))
            greedy = {s.problem_id: s.reward for s in answers if s.sample_index == 0}
            scores.append([greedy[p] for p in sorted(greedy)])
        want = paired_tests.paired_test(*scores)
        sentence = headline([self.subject]).sentence
        self.assertIn(f"{want.only_b} problems gained, {want.only_a}\u00a0lost", sentence)
        self.assertIn(f"+{100 * want.difference:.1f} points", sentence)

    def test_carries_a_bounded_number_of_shortened_samples(self):
        data = self.page.data()
        self.assertLen(data["samples"], 60)
        greedy = sum(i.evaluation("arithmetic").count for i in self.subject.iterations)
        total = 3 * 24 * 6 + greedy
        self.assertIn(f"carries 60 of the {total} samples", " ".join(self.page.text))
        longest = max(data["samples"], key=lambda s: len(s["text"]))
        self.assertRegex(longest["text"], r"^[^…]{80} \[…\] \(\d+ more characters\)$")
        places = {(s["set"], s["iteration"]) for s in data["samples"]}
        want = {("train", i) for i in (1, 2, 3)} | {("test", i) for i in range(4)}
        self.assertEqual(places, want)
        asked = self.subject.problems()
        for sample in data["samples"]:
            question = data["questions"][sample["question"]]
            self.assertEqual(question["inputs"][:80], asked[sample["problem"]].inputs[:80])
            self.assertEqual(question["answer"], asked[sample["problem"]].answer)

    def test_stylesheet_and_script_are_packaged(self):
        setup = pathlib.Path(__file__).parents[2] / "setup.py"
        if not setup.exists():
            self.skipTest("no setup.py beside the tests: this is an installed copy")
        listed = re.search(r"package_data=\{(.*?)\}", setup.read_text(), re.DOTALL).group(1)
        for ending in ("css", "js"):
            self.assertRegex(listed, rf'"restem\.report": \[[^\]]*"\*\.{ending}"')


class AnyStateTest(parameterized.TestCase):
    def folder(self) -> pathlib.Path:
        return pathlib.Path(self.create_tempdir().full_path)

    @parameterized.parameters("samples", "selection", "improve")
    def test_a_run_in_progress(self, step):
        path = self.folder()
        synthetic_run.write_run(path, stop_after=(1, step), **SMALL)
        run = read_run(str(path))
        self.assertTrue(run.in_progress)
        head = headline([run])
        self.assertIsNone(head.after)
        self.assertIn("no trained policy is evaluated yet", head.sentence)
        self.assertIn("in progress", head.notes[0])
        samples = {1: run.iterations[1].samples(most_shown=50)}
        charts = list(run_figures.charts(run, samples))
        drawn = {c.key for c in charts if isinstance(c, plotting.Chart)}
        self.assertEqual("where_samples_went" in drawn, step != "samples")
        embedded = browser.embed([run], [samples], limit=50, characters=500)
        outcomes = {s["outcome"] for s in embedded.samples if s["set"] == "train"}
        self.assertEqual("kept" in outcomes, step != "samples")
        self.assertEqual("correct" in outcomes, step == "samples")

    def test_samples_without_verdicts_and_a_file_being_written(self):
        path = self.folder()
        run = layout.Workdir(path)
        problems = synthetic_run.make_problems("arithmetic", "train", 4, 0)
        plain = [
            dataclasses.replace(s, reward=None, verdict=None, finish_reason="stop")
            for s in synthetic_run.sample_all(problems, 3, 0.0, "x")
        ]
        shard = layout.shard_path(run.iteration(1).samples, 0, 2)
        storage.write_table(shard, records.samples_to_table(plain))
        (pathlib.Path(shard.parent) / ".00001-of-00002.parquet.7.tmp").write_bytes(b"half")
        index = report(workdirs=[str(path)])
        parsed = Parsed(pathlib.Path(index).read_text())
        self.assertEqual({s["outcome"] for s in parsed.data()["samples"]}, {"unverified"})
        self.assertIn("No policy is evaluated yet.", " ".join(parsed.text))
        self.assertIn("All 12 samples", " ".join(parsed.text))
        again = report(workdirs=[str(path)], output=str(self.folder()))
        self.assertEqual(
            pathlib.Path(again).read_bytes(), pathlib.Path(index).read_bytes(), "not deterministic"
        )

    def test_nulls_and_unknown_forms_are_no_obstacle(self):
        path = self.folder()
        first = layout.Workdir(path).iteration(0)
        storage.write_json(
            first.evaluation("math"),
            {"pass@1": 0.5, "ci95": None, "pass@k": {"1": None}, "difficulty": None, "n": None},
        )
        storage.write_json(layout.Workdir(path).iteration(1).selection, {"buckets": None})
        second = layout.Workdir(path).iteration(2)
        storage.write_json(second.evaluation("math"), {"pass@1": float("nan")})
        storage.write_json(
            second.improvement, {"loss": [[0, None], "x", [1, 0.5]], "seconds": None}
        )
        run = read_run(str(path))
        head = headline([run])
        self.assertEqual((head.before, head.after), ("50.0%", None))
        with plotting.style():
            for chart in [*paper_figures.charts([run]), *run_figures.charts(run, {})]:
                if isinstance(chart, plotting.Chart):
                    plotting.svg(chart.draw(True))

    def test_validation_that_chose_the_base_policy(self):
        path = self.folder()
        synthetic_run.write_run(path, skills=(0.5, -0.5), transfer=(), **SMALL)
        head = headline([read_run(str(path))])
        self.assertIsNone(head.after)
        self.assertIn("Validation chose the base policy", head.sentence)

    @parameterized.named_parameters(
        ("missing", "nowhere", "no such folder"), ("other", "", "nothing to report")
    )
    def test_no_run(self, name, message):
        with self.assertRaisesRegex(UserError, message):
            report(workdirs=[str(self.folder() / name)])

    @parameterized.named_parameters(
        ("json", "iteration_001/selection.json", "selection.json"),
        ("list", "run.json", "run.json"),
        ("samples", "iteration_001/samples/00000-of-00001.parquet", "00000-of-00001.parquet"),
        ("problems", "problems/arithmetic.parquet", "arithmetic.parquet"),
    )
    def test_a_damaged_file_is_named(self, name, message):
        path = self.folder()
        synthetic_run.write_run(path, stop_after=(1, "samples"), **SMALL)
        target = path / name
        target.parent.mkdir(exist_ok=True)
        target.write_text("[1]" if name == "run.json" else "no such thing")
        with self.assertRaisesRegex(UserError, message):
            report(workdirs=[str(path)])

    def test_arguments(self):
        with self.assertRaisesRegex(UserError, "at least one workdir"):
            report(workdirs=[])
        with self.assertRaisesRegex(UserError, "2 labels for 1"):
            report(workdirs=[str(ROOT / "sft")], labels=["a", "b"])


class HostileTest(absltest.TestCase):
    """Model text, verdicts, queries, and even labels that try to become part of the page."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.html = pathlib.Path(hostile_page()).read_text("utf-8")
        cls.page = Parsed(cls.html)

    def test_no_element_comes_from_data(self):
        scripts = [attributes for tag, attributes in self.page.tags if tag == "script"]
        self.assertEqual(scripts, [{"type": "application/json", "id": "sample-data"}, {}])
        for tag, attributes in self.page.tags:
            self.assertNotIn(tag, ("img", "iframe", "object", "embed", "base", "form"))
            for name in attributes:
                self.assertFalse(name.startswith("on"), (tag, name))

    def test_data_survives_unchanged(self):
        data = self.page.data()
        attacked = [s for s in data["samples"] if synthetic_run.HOSTILE in s["text"]]
        self.assertNotEmpty(attacked)
        self.assertEqual(data["runs"], [synthetic_run.HOSTILE[:39] + "…", "sft"])
        for sample in attacked:
            self.assertEqual(sample["extracted"], synthetic_run.HOSTILE)
        for sample in attacked:
            self.assertIn(synthetic_run.HOSTILE, data["questions"][sample["question"]]["inputs"])

    def test_only_our_script_may_run(self):
        policy = next(a["content"] for t, a in self.page.tags if t == "meta" and "content" in a
                      and a.get("http-equiv") == "Content-Security-Policy")  # fmt: skip
        self.assertIn("default-src 'none'", policy)
        self.assertRegex(policy, r"script-src 'sha256-[A-Za-z0-9+/=]{44}'")
        self.assertNotIn("script-src 'unsafe", policy)

    def test_json_cannot_leave_its_element(self):
        text = page.as_json({"a": "</script>\u2028<!--\ud800&"})
        self.assertNotRegex(text, "[<>&\u2028\ud800]")
        self.assertEqual(json.loads(text)["a"][:9], "</script>")


@unittest.skipIf(chromium.find() is None, "no Chromium on this machine (Debian: chromium)")
class BrowserTest(parameterized.TestCase):
    """In headless Chromium: opens without complaint on desk and phone, and the filters work."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.browser = cls.enter_context(chromium.Chromium(chromium.find()))
        cls.paths = {"restem": pathlib.Path(main_page()), "hostile": pathlib.Path(hostile_page())}
        cls.urls = {name: path.as_uri() for name, path in cls.paths.items()}

    @parameterized.product(name=("restem", "hostile"), width=(1280, 390), dark=(False, True))
    def test_opens(self, name, width, dark):
        self.browser.open(self.urls[name], width, dark=dark)
        self.assertEqual(self.browser.errors(), [])
        self.assertEqual(set(self.browser.requests()) - {"data:,"}, {self.urls[name]})
        self.assertEqual(
            self.browser.evaluate("[document.documentElement.scrollWidth, innerWidth]"),
            [width, width],
        )
        self.assertIsNone(self.browser.evaluate("window.hacked"))
        # The answer is on the first screen, and the figure that suits the width is the one shown.
        self.assertLess(
            self.browser.evaluate(
                "document.querySelector('.headline').getBoundingClientRect().bottom"
            ),
            800,
        )
        shown = "[...document.querySelectorAll('{}')].filter(e => e.offsetHeight > 0).length"
        wide, narrow = (self.browser.evaluate(shown.format(c)) for c in (".wide", ".narrow"))
        self.assertEqual((wide > 0, narrow > 0), (width == 1280, width == 390))

    def test_text_of_figures_can_be_read(self):
        """No letter of a figure is set below 9 CSS pixels, on the phone either."""
        for width in (1280, 390):
            self.browser.open(self.urls["restem"], width)
            smallest = self.browser.evaluate(
                "const scale = m => Math.hypot(m.a, m.b);"
                "Math.min(...[...document.querySelectorAll('svg text')]"
                ".filter(e => e.checkVisibility() && e.textContent.trim())"
                ".map(e => parseFloat(getComputedStyle(e).fontSize) * scale(e.getScreenCTM())))"
            )
            self.assertGreaterEqual(smallest, 9)

    def test_filters(self):
        self.browser.open(self.urls["restem"], 1280)
        total = len(Parsed(self.paths["restem"].read_text("utf-8")).data()["samples"])
        self.assertEqual(self.found(), total)
        kept = self.choose("outcome", "kept")
        self.assertBetween(kept, 1, total - 1)
        badges = "[...new Set([...document.querySelectorAll('.badge')].map(e => e.textContent))]"
        self.assertEqual(self.browser.evaluate(badges), ["✓ kept"])
        self.choose("outcome", "")
        self.assertEqual(self.choose("reward", "0") + self.choose("reward", "1"), total)
        self.choose("reward", "")
        self.assertBetween(self.choose("reason", "numeric"), 1, total - 1)
        self.choose("reason", "")
        place = self.browser.evaluate("document.getElementById('filter-where').options[1].value")
        self.assertEqual(place, "E-step of iteration 1")
        self.assertBetween(self.choose("where", place), 1, total - 1)
        self.choose("where", "")
        problem = self.browser.evaluate("document.querySelector('.card b').textContent")
        self.assertBetween(self.choose("text", problem), 1, total - 1)
        self.assertEqual(self.choose("text", "no such text anywhere"), 0)

    def test_more_and_theme(self):
        self.browser.open(self.urls["restem"], 1280)
        cards = "document.querySelectorAll('.card').length"
        self.assertEqual(self.browser.evaluate(cards), 24)
        self.browser.evaluate("document.getElementById('more').click()")
        self.assertEqual(self.browser.evaluate(cards), 48)
        ground = "getComputedStyle(document.body).backgroundColor"
        before = self.browser.evaluate(ground)
        self.browser.evaluate("document.getElementById('theme').click()")
        self.assertNotEqual(self.browser.evaluate(ground), before)

    def test_hostile_text_is_shown_as_text(self):
        self.browser.open(self.urls["hostile"], 1280)
        self.choose("text", "window.hacked = 2")
        shown = self.browser.evaluate("document.querySelector('.card').textContent")
        self.assertIn("<img src=x onerror='window.hacked = 2'>", shown)
        self.assertIn("⟨U+202E⟩ reversed", shown)
        self.assertNotIn("\u202e", shown)
        self.assertEqual(self.browser.evaluate("document.querySelectorAll('.card img').length"), 0)
        self.assertIsNone(self.browser.evaluate("window.hacked"))

    def choose(self, name: str, value: str) -> int:
        """Sets a filter; the number of samples that match."""
        self.browser.evaluate(
            f"(() => {{ const e = document.getElementById('filter-{name}');"
            f" e.value = {json.dumps(value)}; e.dispatchEvent(new Event('input')); }})()"
        )
        return self.found()

    def found(self) -> int:
        text = self.browser.evaluate("document.getElementById('found').textContent")
        match = re.search(r"of (\d+) matching", text)
        return int(match.group(1)) if match else 0


if __name__ == "__main__":
    absltest.main()
