"""Units: which agree, whatever other words stand beside them, and times of day."""

from absl.testing import absltest, parameterized

from restem.verify.answers.equivalence import compare
from restem.verify.answers.options import Options


class WordsBesideUnitsTest(parameterized.TestCase):
    @parameterized.parameters(
        (r"25 \text{ inches long}", r"25 \text{ ft}"),
        (r"20 \text{ km away}", r"20\text{ miles}"),
        (r"20 \text{ weeks in total}", r"20\text{ days}"),
        (r"20 \text{ more weeks}", r"20\text{ days}"),
        (r"382 \text{ cents total}", r"382 \text{ dollars}"),
        (r"2 \text{ dollars each}", r"2 \text{ euros}"),
        (r"\$2 \text{ each}", r"2 \text{ euros}"),
        (r"\$2 \text{ dollars}", r"2 \text{ euros}"),
        (r"2 \text{ US dollars}", r"2 \text{ euros}"),
        (r"3 \text{ months old}", r"3 \text{ years old}"),
        (r"9 \text{ hours later}", r"9\text{ min}"),
        (r"3 \text{ cups of flour}", r"3 \text{ tablespoons}"),
        (r"20 \text{ days in total}", r"20\%"),
        (r"5 \text{ cm squared}", r"5\text{ cm}"),
        ("5 \\text{ cm\u00b2}", r"5\text{ cm}"),
        (r"5 \text{ ms}", r"5 \text{ m}"),
        (r"45 \text{ radians in total}", r"45^\circ"),
        (r"2\text{ hours} + 30\text{ minutes}", r"32\text{ hours}"),
    )
    def test_another_unit(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 0.0, verdict)
        ignored = compare(prediction, gold, options=Options(units="ignore"))
        self.assertEqual(ignored.reward, 1.0, ignored)

    @parameterized.parameters(
        (r"5 \text{ feet tall}", r"5\text{ feet}"),
        (r"5\text{ feet}", r"5 \text{ feet tall}"),
        (r"60 \text{ inches tall}", r"5\text{ feet}"),
        ("12", r"12 \text{ inches long}"),
        (r"12 \text{ in all}", r"12 \text{ ft}"),
        (r"12 \text{ in total}", r"12 \text{ days}"),
        (r"12 \text{ in. long}", r"1 \text{ ft}"),
        (r"3 \text{ years old}", r"3 \text{ years}"),
        (r"36 \text{ months old}", r"3 \text{ years old}"),
        (r"8 \text{ working days}", r"8 \text{ days}"),
        (r"5.5 \text{ US dollars}", r"\$5.50"),
        (r"\$5.5 \text{ dollars}", r"\$5.50"),
        (r"3 \text{ dollars each}", r"\$3"),
        (r"7 \text{ quart bottles}", r"7 \text{ bottles}"),
        (r"3 \text{ cups of flour}", r"3 \text{ cups}"),
        (r"\frac14 \text{ of an hour}", r"\frac14 \text{ hour}"),
        (r"25\% \text{ of the day}", r"25\%"),
        (r"25 \text{ percent of the day}", r"25\%"),
        (r"15 \text{ cm squared}", r"15 \text{ cm}^2"),
        ("15 cm squared", r"15 \text{ cm}^2"),
        (r"15 \text{ cm^2}", r"15 \text{ square centimeters}"),
        (r"15 \text{ units squared}", r"15 \text{ square units}"),
        (r"5 \text{-inch}", r"5 \text{ inches}"),
        (r"5 \text{ m} \cdot 3 \text{ m}", r"15 \text{ m}^2"),
        (r"6 \text{ weeks} + 4 \text{ weeks}", r"10 \text{ weeks}"),
        (r"12 \text{ in April}", "12"),
    )
    def test_the_same_unit(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 1.0, verdict)


class RateTest(parameterized.TestCase):
    @parameterized.parameters(
        (r"20 \text{ miles per hour}", r"20\text{ miles}"),
        (r"60 \text{ hours}", r"60 \text{ miles per hour}"),
        (r"60 \text{ miles}", r"60 \text{ mph}"),
        (r"30 \text{ miles per gallon}", r"30 \text{ miles per hour}"),
        (r"5 \text{ m/s on average}", r"5 \text{ cm/s}"),
        (r"5 \text{ miles an hour}", r"5 \text{ km per hour}"),
        (r"20 \text{ per hour}", r"20 \text{ hours}"),
        (r"20 \text{ an hour}", r"20 \text{ hours}"),
        (r"20 \text{ students per hour}", r"20 \text{ hours}"),
        (r"20 \text{ students per hour}", r"20 \text{ students per minute}"),
        (r"3 \text{ dollars per hour}", r"3 \text{ hours}"),
    )
    def test_another_unit(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 0.0, verdict)

    @parameterized.parameters(
        (r"60 \text{ miles an hour}", r"60 \text{ mph}"),
        (r"60 \text{ miles each hour}", r"60 \text{ mph}"),
        (r"60 \text{ miles each hour}", r"60 \text{ miles}"),
        (r"60 \text{ mph on average}", r"60 \text{ miles per hour}"),
        (r"60 \text{ MPH}", r"60 \text{ miles/hour}"),
        (r"5 \text{ miles per day}", r"35 \text{ miles per week}"),
        (r"5 \text{ m}/\text{s}^2", r"5 \text{ m/s^2}"),
        (r"5 \text{ m/s}^2", r"5 \text{ meters per second squared}"),
        (r"100 \text{ cm}^2/\text{s}", r"0.01 \text{ square meters per second}"),
        (r"\$12.50 \text{ per hour}", r"\$12.50"),
        (r"\$12.50 \text{ an hour}", r"12.50 \text{ dollars per hour}"),
        (r"20 \text{ per hour}", r"20 \text{ miles per hour}"),
        (r"5 \text{ each day}", r"5 \text{ miles}"),
        (r"20 \text{ miles per trip}", r"20 \text{ miles}"),
        (r"20 \text{ students per hour}", r"20 \text{ students}"),
    )
    def test_the_same_unit(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 1.0, verdict)


class TimeOfDayTest(parameterized.TestCase):
    @parameterized.parameters(
        ("9 a.m.", r"9\text{ a.m.}"),
        ("9 A. M.", r"9\text{ a.m.}"),
        (r"\text{9 a.m.}", r"9\text{ a.m.}"),
        (r"\text{9:00 AM}", r"9\text{ a.m.}"),
        ("9:00", r"9\text{ a.m.}"),
        (r"9 \text{ o'clock}", r"9\text{ a.m.}"),
        (r"9 \text{ in the morning}", r"9\text{ a.m.}"),
        ("8:34 p.m.", r"8\!:\!34 \text{ p.m.}"),
        (r"\text{8:34 PM}", r"8\!:\!34 \text{ p.m.}"),
        ("4:30 p.m.", r"\text{4:30 p.m.}"),
        (r"12 \text{ noon}", r"12 \text{ p.m.}"),
    )
    def test_equal(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 1.0, verdict)

    @parameterized.parameters(
        ("9 p.m.", r"9\text{ a.m.}"),
        (r"\text{9 p.m.}", r"9\text{ a.m.}"),
        (r"9 \text{ p.m. sharp}", r"9\text{ a.m.}"),
        (r"9 \text{ in the evening}", r"9\text{ a.m.}"),
        (r"9 \text{ hours}", r"9\text{ a.m.}"),
        ("8:35 p.m.", r"8\!:\!34 \text{ p.m.}"),
        (r"\frac{4}{17}", r"8\!:\!34 \text{ p.m.}"),
        ("4:30 a.m.", r"\text{4:30 p.m.}"),
    )
    def test_different(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 0.0, verdict)


if __name__ == "__main__":
    absltest.main()
