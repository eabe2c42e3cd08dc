"""Which names of the prelude a program gets: those it mentions, and heavy modules only at need."""

import builtins
from unittest import mock

from absl.testing import absltest, parameterized

from restem.verify.programs import prelude


def supplied(source: str) -> set[str]:
    before = set(vars(builtins))
    code = compile(source, "main.py", "exec", dont_inherit=True)
    with mock.patch.dict(vars(builtins)):
        prelude.supply(code)
        return set(vars(builtins)) - before


class PreludeTest(parameterized.TestCase):
    @parameterized.parameters(
        ("x = 1", set()), ("print(gcd(4, 6))", {"gcd"}),
        ("def f(x: List): return deque(x)", {"List", "deque"}),
        ("class A:\n  def f(s):\n    return [lambda: sqrt(i) for i in s]", {"sqrt"}),
        ("np.zeros(3)", {"np"}), ("np = 3\nprint(np)", set()),
        ("import numpy as np\nnp.zeros(3)", set()), ("def f(): return np.zeros(3)", {"np"}),
        ("x.np = 3", set()),
        ("def f(): np = 3; return np", set()), ("pow(2, 3); open(0); sum([1])", set()),
        ("undefined_name", set()),
    )  # fmt: skip
    def test_names(self, source, names):
        self.assertEqual(supplied(source), names)

    def test_a_program_that_evaluates_text_gets_all_but_heavy_modules(self):
        found = supplied("eval('gcd(2, 4)')")
        self.assertContainsSubset({"gcd", "Counter", "randint", "json"}, found)
        self.assertNotIn("np", found)
        self.assertNotIn("numpy", found)

    def test_table(self):
        table = prelude.table()
        self.assertEmpty(set(table) & set(vars(builtins)), "a built-in name is replaced")
        for name in ("Counter", "OrderedDict", "ChainMap", "defaultdict", "deque"):
            self.assertEqual(table[name], ("collections", name))  # not those of `typing`
        for name in ("datetime", "random", "string", "copy", "decimal"):
            self.assertEqual(table[name], (name, ""), "the module, not what is in it")
        self.assertEqual(table["bisect"], ("bisect", "bisect"))


if __name__ == "__main__":
    absltest.main()
