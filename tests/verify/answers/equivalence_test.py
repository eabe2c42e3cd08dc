"""One table of answers that are equal and one of answers that are not, both from practice."""

import gzip
import json
import os
import pathlib
import random

from absl.testing import absltest, parameterized

from restem.verify.answers.equivalence import compare, is_equivalent
from restem.verify.answers.extract import extract_gold
from restem.verify.answers.latex.notation import clean
from restem.verify.answers.latex.parser import parse
from restem.verify.answers.options import Options

EQUAL = r"""
fraction and decimal ;; \frac12 ;; 0.5
fraction forms ;; \dfrac{1}{2} ;; \tfrac12
fraction over one token ;; \frac1{72} ;; 1/72
fraction with a space ;; \frac 32 ;; \frac{3}{2}
sign anywhere ;; \frac{-1}{2} ;; -\frac{1}{2}
not reduced ;; \frac{6}{4} ;; \frac{3}{2}
repeating decimal ;; 0.1\overline{6} ;; \frac16
trailing zeros ;; 2.50 ;; 2.5
leading zero ;; .175 ;; 0.175
thousands ;; 1,234,567 ;; 1234567
thousands in braces ;; 10{,}000 ;; 10000
thousands with a negative space ;; 11,\! 111 ;; 11111
radical simplified ;; \sqrt{8} ;; 2\sqrt2
radical rationalised ;; \frac{1}{\sqrt2} ;; \frac{\sqrt{2}}{2}
nested radical ;; \sqrt{5+2\sqrt6} ;; \sqrt{2}+\sqrt{3}
difference of radicals ;; \frac{\sqrt{3}}{4\sqrt{2}-3} ;; \frac{4\sqrt6+3\sqrt3}{23}
cube roots by Cardano ;; \sqrt[3]{2+\sqrt5}+\sqrt[3]{2-\sqrt5} ;; 1
real cube root ;; \sqrt[3]{-8} ;; -2
root as a power ;; 12^{1/7} ;; \sqrt[7]{12}
large powers ;; 2^{100} ;; 4^{50}
tower of radicals ;; \sqrt{2}^{\sqrt{2}} ;; 2^{\sqrt2/2}
scientific ;; 6.02\times 10^{23} ;; 602000000000000000000000
scientific with e ;; 1.5e-3 ;; .0015
logarithm to a base ;; \log_2 8 ;; 3
quotient of logarithms ;; \frac{\log 8}{\log 2} ;; 3
natural logarithm ;; \ln e^2 ;; 2
trigonometry by degrees ;; \cos 36^\circ ;; \frac{1+\sqrt5}{4}
trigonometry by radians ;; \sin\frac{\pi}{12} ;; \frac{\sqrt6-\sqrt2}{4}
product of cosines ;; \cos\frac{\pi}{7}\cos\frac{2\pi}{7}\cos\frac{4\pi}{7} ;; -\frac18
inverse tangent ;; \arctan 1 ;; \frac{\pi}{4}
inverse by exponent ;; \tan^{-1}(1) ;; 45^\circ
double angle ;; 2\sin x\cos x ;; \sin 2x
square of a sine ;; \sin^2 x ;; 1-\cos^2 x
complex quotient ;; \frac{1}{1+i} ;; \frac{1-i}{2}
complex modulus ;; |3+4i| ;; 5
powers of i ;; i^2 ;; -1
Euler ;; e^{i\pi} ;; -1
pi factored out ;; \frac{9\pi}{4} ;; \frac94\pi
polynomial expanded ;; x^2+2x+1 ;; (x+1)^2
polynomial factored ;; (x+2)(x-2) ;; x^2-4
commuted ;; a^2+b^2 ;; b^2+a^2
rational function ;; \frac{x^2-1}{x-1} ;; x+1
radicals of variables ;; 6x\sqrt{35x} ;; \sqrt{1260x^3}
symbolic exponents ;; x^n \cdot x ;; x^{n+1}
exponentials ;; 2^{x+1} ;; 2\cdot 2^x
mixed number ;; 3\frac12 ;; \frac72
negative mixed number ;; -15\frac{3}{5} ;; -15.6
mixed number in plain text ;; 1 1/2 ;; \frac32
factorial ;; 10! ;; 3628800
a large factorial ;; \frac{2004}{2004!} ;; \frac{1}{2003!}
binomial ;; \binom{10}{3} ;; 120
floor ;; \lfloor 3.7 \rfloor ;; 3
per cent as a number of per cent ;; 50 ;; 50\%
per cent as a fraction ;; 0.5 ;; 50\%
currency ;; 5.5 ;; \$5.50
currency and words ;; 5.50\text{ dollars} ;; \$5.5
cents and dollars ;; 80\text{ cents} ;; \$0.80
unit dropped ;; 12 ;; 12 \text{ inches}
unit converted ;; 1\text{ foot} ;; 12\text{ inches}
unit without text ;; 144 m^3 ;; 144 \mbox{ m}^3
unit squared in words ;; 15\text{ square cm} ;; 15\mbox{ cm}^2
words that measure nothing ;; 14 ;; 14 \text{ right triangles}
words outside text ;; 120 degrees ;; 120^\circ
degrees dropped ;; 45 ;; 45^\circ
interval of degrees ;; [0^\circ, 90^\circ) ;; [0,90)
sum of degrees ;; 30^\circ+15^\circ ;; 45
degrees as radians ;; \frac{\pi}{4} ;; 45^\circ
base ;; 101_{2} ;; 101_2
base dropped ;; 1011 ;; 1011_2
base dropped, with a point ;; 0.0011 ;; 0.0011_{2}
base dropped, negative ;; -37 ;; -37_8
base ten ;; 24 ;; 24_{10}
base with letters ;; 152A_{11} ;; \text{152A}_{11}
point with other spacing ;; \left( 3, \frac{\pi}{2} \right) ;; (3,\pi/2)
interval ;; \left[-3,-\frac{4}{3}\right) ;; [-3,-4/3)
union in another order ;; (0,\infty)\cup(-\infty,0) ;; (-\infty,0)\cup (0,\infty)
union that merges ;; (-\infty,2]\cup(2,5) ;; (-\infty,5)
reals without a point ;; \mathbb{R}\setminus\{0\} ;; (-\infty,0)\cup(0,\infty)
inequality and interval ;; x<5 ;; (-\infty,5)
double inequality and interval ;; 3\le x<5 ;; [3,5)
inequality from the other side ;; 5 > x \ge 3 ;; 3\le x<5
unequal and union ;; x\ne 0 ;; (-\infty,0)\cup(0,\infty)
element of an interval ;; x \in [-2,7] ;; [-2,7]
inequalities joined by or ;; x<1 \text{ or } x>2 ;; (-\infty,1)\cup(2,\infty)
inequality turned round ;; 8r^2 \ge s^2 ;; s^2\le 8r^2
chain of inequalities ;; f(4)>f(1)>f(2) ;; f(2)<f(1)<f(4)
set in another order ;; \{2,1\} ;; \{1,2\}
bare list in another order ;; 2, 1 ;; 1,2
list joined by and ;; 6, 8\text{, and }10 ;; 10,8,6
list joined by or ;; x=1 \text{ or } x=2 ;; 1,2
list in braces ;; \{1,2\} ;; 1,2
plus-minus ;; 1+\sqrt2, 1-\sqrt2 ;; 1\pm\sqrt2
plus-minus in a set ;; \{-2, 1-\sqrt5, 1+\sqrt{5}\} ;; \{1\pm\sqrt{5},-2\}
list of points ;; (2,15), (-4,27) ;; (-4, 27);(2, 15)
matrix brackets ;; \begin{bmatrix}1\\2\end{bmatrix} ;; \begin{pmatrix}1\\2\end{pmatrix}
matrix entries ;; \begin{pmatrix} 0.5 & 0 \end{pmatrix} ;; \begin{pmatrix}1/2&0\end{pmatrix}
vector in angle brackets ;; \langle 1,2\rangle ;; \begin{pmatrix} 1 \\ 2 \end{pmatrix}
line in another form ;; 2x-y+1=0 ;; y = 2x+1
plane times a constant ;; 2x + 2y + 2z = 0 ;; x + y + z = 0
label dropped ;; 15 ;; k = 15
label added ;; x=15 ;; 15
function label ;; f(x)=2x ;; 2x
unknown function ;; 2f(x)-3 ;; -3 + 2 f{\left(x \right)}
true chain of numbers ;; \frac12+\frac13=\frac56 ;; \frac56
number said twice ;; \frac{14}{25} ;; 0.56 = 56\%
approximation dropped ;; \frac23 ;; \$\dfrac23 \approx \$0.67
ratio as a fraction ;; \frac35 ;; 3:5
choice with brackets ;; (C) ;; \text{(C)}
choice bare ;; C ;; \text{(C)}
choice with words ;; \text{(C) } 12 ;; \text{(C)}
word ;; odd ;; \text{odd}
word with capitals ;; \text{Even} ;; \text{even}
words ;; two lines ;; \text{two lines}
list of letters ;; B, A ;; \text{A,B}
empty set in words ;; \emptyset ;; \text{empty}
reals in words ;; all real numbers ;; (-\infty,\infty)
number hedged ;; approximately 8.24 ;; \approx 8.24 \text{ mph}
binomial by choose ;; {5 \choose 2} ;; 10
rate ;; \$12.50 per hour ;; 12.50
time of day ;; 4:30 \text{ PM} ;; \text{4:30 p.m.}
number word ;; 4 ;; \mbox{four}
unicode ;; 2π − √3 ;; 2\pi-\sqrt{3}
boxed ;; \boxed{5} ;; 5
dollars around ;; $5$ ;; 5
period after ;; -\frac{5}{3}. ;; -\frac53
layout ;; \displaystyle\frac{1}{2}\; ;; \frac12
phantom ;; \begin{pmatrix} 1 \\ \phantom -1 \end{pmatrix} ;; \begin{pmatrix} 1 \\ 1 \end{pmatrix}
"""

DIFFERENT = r"""
powers that are both nearly zero ;; 1/2^{99} ;; 1/2^{98}
base ;; 101_2 ;; 101_3
number in place of its conversion ;; 5 ;; 101_2
base added ;; 10_6 ;; 10
rounded ;; 0.333333 ;; \frac13
rounded to double precision ;; 0.333333333333333314829616256247 ;; \frac13
pi rounded ;; 3.14 ;; \pi
pi by a fraction ;; \frac{22}{7} ;; \pi
relative error ;; 999999999999999999999 ;; 1000000000000000000000
tiny exponential added ;; 5+e^{-1000} ;; 5
tiny power added ;; 5+10^{-900} ;; 5
tiny sine added ;; 5+\sin(1)/10^{500} ;; 5
tiny power of a radical added ;; 5+(\sqrt{2}-1)^{800} ;; 5
tiny power of a logarithm added ;; 5+(\log 2)^{1000000} ;; 5
Ramanujan's near-integer ;; e^{\pi\sqrt{163}} ;; 262537412640768744
near-equal radicals ;; \sqrt{10}+\sqrt{17} ;; \sqrt{5}+\sqrt{26}
factor of 100 ;; 50 ;; 0.5
factor of 100 with signs ;; 0.5\% ;; 50\%
per cent too small ;; 0.05 ;; 50\%
point swapped ;; (2,1) ;; (1,2)
point as a list ;; 1,2 ;; (1,2)
point as a set ;; \{1,2\} ;; (1,2)
matrix transposed ;; \begin{pmatrix}1&2\\3&4\end{pmatrix} ;; \begin{pmatrix}1&3\\2&4\end{pmatrix}
vector swapped ;; \begin{pmatrix}2\\1\end{pmatrix} ;; \begin{pmatrix}1\\2\end{pmatrix}
end point open ;; (-2,7) ;; [-2,7]
end point in an inequality ;; x\le 5 ;; (-\infty,5)
infinity closed ;; (-\infty,5] \cup [7,\infty] ;; (-\infty,5] \cup [7,\infty)
inequality reversed ;; 8r^2 \le s^2 ;; s^2\le 8r^2
inequality as its bound ;; x<5 ;; 5
another variable ;; y=5 ;; x=5
another line ;; 2x-y+2=0 ;; y=2x+1
equation that is no label ;; x^2+y^2=13 ;; 13
root missing ;; 1 ;; 1,2
root too many ;; 1,2,3 ;; 1,2
multiplicity ;; 1,2 ;; 1,1,2
sign ;; x-y ;; x+y
absolute value ;; \sqrt{x^2} ;; x
argument swapped ;; f(x-4) ;; f(4-x)
value of an unknown function ;; 2f(1) ;; f(2)
another unit ;; 12 \text{ m} ;; 12 \text{ cm}
area and length ;; 15 \text{ cm} ;; 15\mbox{ cm}^2
morning and afternoon ;; 4:51 \text{ a.m.} ;; 4\!:\!51 \text{ p.m.}
per cent inside ;; \frac{1}{4\%} ;; \frac14
subscript of nothing ;; x_ ;; x
degrees for per cent ;; 75^\circ ;; 75\%
dollars for degrees ;; \$20 ;; 20^\circ
another choice ;; \text{(D)} ;; \text{(C)}
anagram ;; ABCD ;; \text{CBAD}
anagram outside text ;; DCAB ;; CBAD
another word ;; \text{even} ;; \text{odd}
word for a number ;; \text{Sunday} ;; 5
thousands are no point ;; 100101 ;; (100,101)
false chain ;; 2+2=5 ;; 5
two answers for one ;; 5 \text{ or } 6 ;; 5
empty ;; {} ;; 5
"""


def rows(table: str):
    for line in table.strip().splitlines():
        name, prediction, gold = (part.strip() for part in line.split(";;"))
        yield {"testcase_name": "_" + name, "prediction": prediction, "gold": gold}


class TableTest(parameterized.TestCase):
    @parameterized.named_parameters(*rows(EQUAL))
    def test_equal(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 1.0, verdict)
        self.assertEqual(compare(gold, gold).reward, 1.0)

    @parameterized.named_parameters(*rows(DIFFERENT))
    def test_different(self, prediction, gold):
        verdict = compare(prediction, gold)
        self.assertEqual(verdict.reward, 0.0, verdict)
        self.assertNotEqual(verdict.detail, "")


class VerdictTest(parameterized.TestCase):
    @parameterized.parameters(
        ("$5$", "5", "string"),
        ("0.5", r"\frac{1}{2}", "numeric"),
        ("(x+1)^2", "x^2+2x+1", "symbolic"),
        ("2, 1", "1, 2", "list"),
        (r"\{2, 1\}", r"\{1, 2\}", "set"),
        ("(0.5, 1)", r"(\frac12, 1)", "tuple"),
        (r"(-\infty,1)", "x<1", "inequality"),
        (r"(2,3)\cup(0,1)", r"(0,1)\cup(2,3)", "interval"),
        (r"y=x+1", "x-y+1=0", "equation"),
        (r"011_2", "11_2", "base"),
        ("ODD", r"\text{odd}", "text"),
        (r"\sqrt", "5", "none"),
    )
    def test_method(self, prediction, gold, method):
        self.assertEqual(compare(prediction, gold).method, method)

    def test_says_what_was_compared(self):
        verdict = compare(r"$\dfrac{1}{2}$.", "0.5")
        self.assertEqual(verdict.extracted, r"$\dfrac{1}{2}$.")
        self.assertEqual(verdict.normalized, r"\frac{1}{2}")

    def test_says_when_equality_is_evidence(self):
        self.assertIn("300 bits", compare(r"\arctan 1", r"\frac{\pi}{4}").detail)
        self.assertEqual(compare(r"\sqrt{8}", r"2\sqrt{2}").detail, "")


class OptionsTest(parameterized.TestCase):
    @parameterized.parameters(
        ({}, "0.5", r"50\%", True),
        ({"percent": "unit"}, "0.5", r"50\%", False),
        ({"percent": "unit"}, "50", r"50\%", True),
        ({"percent": "value"}, "50", r"50\%", False),
        ({"percent": "value"}, "0.5", r"50\%", True),
        ({"degrees": "unit"}, r"\frac{\pi}{4}", r"45^\circ", False),
        ({"degrees": "value"}, "45", r"45^\circ", False),
        ({"units": "ignore"}, r"12\text{ m}", r"12\text{ cm}", True),
        ({"bases": "required"}, "1011", "1011_2", False),
        ({"bases": "value"}, "11", "1011_2", True),
        ({"labels": False}, "x=5", "5", False),
        ({"bare_lists": True}, "1,2", "(1,2)", True),
        ({"bare_lists": True}, "2,1", "(1,2)", False),
        ({"multiplicity": False}, "1,2", "1,1,2", True),
        ({"ratios": False}, r"\frac35", "3:5", False),
        ({}, r"\log 100", "2", True),
        ({"log_base": 2}, r"\log 8", "3", True),
    )
    def test_option(self, options, prediction, gold, equal):
        verdict = compare(prediction, gold, options=Options(**options))
        self.assertEqual(bool(verdict.reward), equal, verdict)


HOSTILE = {
    "tower": r"9^{9^{9^{9}}}",
    "double factorial": "10000!!",
    "binomial": r"\binom{10^9}{5}",
    "fractions": r"\frac{" * 10_000 + "1" + "}{2}" * 10_000,
    "million digits": "1" * 10**6,
    "million letters": "x" * 10**6,
    "million brackets": "(" * 10**6,
    "million minus signs": "-" * 10**6,
    "braces": "{" * 10**5,
    "boxes": r"\boxed{" * 10**4 + "5" + "}" * 10**4,
    "surrogates": "\ud800\udfff5",
    "nul": "6\x00",
    "import": "__import__('os').system('touch /tmp/pwned')",
    "dunder": "().__class__.__bases__[0].__subclasses__()",
    "large power": "(x+1)^{100000}",
    "large power of a radical": r"(1+\sqrt{2})^{99999}",
    "many radicals": "+".join(rf"\sqrt{{{n}}}" for n in range(2, 150)),
    "many sines": "+".join(rf"\sin({n})" for n in range(2, 100)),
    "root of unity": r"\cos\frac{\pi}{99991}",
    "exponentials": "e^{e^{e^{e^{10}}}}",
    "nested roots": r"\sqrt{2+" * 35 + "1" + "}" * 35,
    "long list": "1," * 1900 + "1",
    "factorials": "7!!!!!!!!!",
    "absolute values": "|" * 1000,
    "functions": r"\sin" * 800 + "x",
    "division by zero": r"\frac{1}{0}",
    "zero to the zero": "0^0",
    "tangent of a right angle": r"\tan 90^\circ",
    "logarithm of zero": r"\ln 0",
    "infinity": r"\infty-\infty",
    "unknown command": r"\catcode`\@=11",
    "base of a digit": "9_2",
    "large base": "1_{99}",
    "large exponent": "1E999999",
}


class HostileTest(parameterized.TestCase):
    @parameterized.named_parameters(*(("_" + name, text) for name, text in HOSTILE.items()))
    def test_ends_as_incorrect(self, text):
        for gold in ("5", "x+1", r"\sqrt{2}+\sqrt{3}", "(1,2)", r"(0,\infty)", "1,2", "x=y"):
            verdict = compare(text, gold)
            self.assertEqual(verdict.reward, 0.0, verdict)
            self.assertLess(len(verdict.detail), 500)

    def test_random_tokens_raise_nothing(self):
        numbers = random.Random(0)
        words = (
            r"\frac \sqrt \sin \log \pi \infty \text{ab} \cup \{ \} \% \$ ^\circ \pm \binom "
            r"\begin{pmatrix} \end{pmatrix} \\ & { } ( ) [ ] , ; : = < > ^ _ ! | ' + - * / . "
            r"0 1 2 37 x y e i f( 0.5 1,000 and or \overline \le \in \mathbb{R} \setminus inches"
        )
        tokens = words.split()
        golds = ("5", "x+1", "(1,2)", r"(0,\infty)", "1,2", "y=x", r"\text{A}", "101_2", "3:4")
        for _ in range(3000):
            text = "".join(numbers.choices(tokens, k=numbers.randint(1, 14)))
            verdict = compare(text, numbers.choice(golds))
            self.assertIn(verdict.reward, (0.0, 1.0))
            self.assertEqual(compare(numbers.choice(golds), text).extracted is None, False)


@absltest.skipUnless(os.environ.get("RESTEM_DATA_DIR"), "RESTEM_DATA_DIR is not set")
class MathDataTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.golds = []
        for split in ("train", "test"):
            path = pathlib.Path(os.environ["RESTEM_DATA_DIR"], "math", f"{split}.jsonl.gz")
            with gzip.open(path, "rt") as lines:
                for line in lines:
                    row = json.loads(line)
                    gold = extract_gold(row["solution"])
                    self.golds.append((f"{split}/{row['idx']}", row["type"], gold))

    def test_every_gold_is_itself(self):
        """All 12,500, of which two have an empty box."""
        empty = [place for place, _, gold in self.golds if gold is None]
        self.assertEqual(empty, ["train/5341", "train/5343"])
        for place, _, gold in self.golds:
            if gold is not None:
                self.assertTrue(is_equivalent(gold, gold), place)

    def test_every_gold_can_be_parsed(self):
        """Each is read by the grammar, not only equal to itself as a string."""
        for place, _, gold in self.golds:
            if gold is not None:
                self.assertIsNotNone(parse(clean(gold)), place)

    def test_other_problems_answers(self):
        """Against another problem's answer of its type: only the same number is ever equal."""
        numbers = random.Random(3)
        by_type = {}
        for _, kind, gold in self.golds:
            if gold is not None:
                by_type.setdefault(kind, []).append(gold)
        for kind, golds in by_type.items():
            for gold in numbers.sample(golds, 80):
                other = numbers.choice(golds)
                if compare(other, gold).reward:
                    bare = [
                        "".join(c for c in text if c.isalnum()).replace("dfrac", "frac")
                        for text in (other.replace("circ", ""), gold.replace("circ", ""))
                    ]
                    self.assertEqual(bare[0], bare[1], kind)


if __name__ == "__main__":
    absltest.main()
