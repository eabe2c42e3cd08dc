"""Test code sees a program's values and exceptions, and no program ends a test by them."""

# ruff: noqa: E501  (programs in tables)

from absl.testing import absltest, parameterized

from tests.helpers.program_pools import PoolTest


class ExceptionTest(PoolTest):
    @parameterized.named_parameters(
        ("map", "assert all(map(f, [2, 4, 6]))"),
        ("zip", "for got, want in zip(map(f, [1, 2]), [1, 4]): assert got == want"),
        ("sentinel", "assert all(iter(lambda: f(1), 5))"),
        ("attribute", "import operator\nassert all(map(operator.attrgetter('x'), [f.one]))"),
        ("length", "assert all(map(len, [f.one]))"),
        ("item", "assert all(map(lambda o: o[0], [f.one]))"),
    )
    def test_no_exception_of_the_program_ends_an_iterator_of_the_test(self, test):
        for name in ("StopIteration", "StopAsyncIteration"):
            program = (
                f"def stop(*_): raise {name}\nclass P: __len__ = __getitem__ = __getattr__ = stop\n"
                "def f(x): stop()\nf.one = P()"
            )
            verdict = self.grade(program, {"test_list": [test]})
            self.assertEqual(verdict.reward, 0.0)
            self.assertIn(f"RemoteError: {name}", verdict.detail)

    def test_an_iterator_of_the_program_ends(self):
        program = "def f(x): yield from range(x)"
        tests = [
            "assert list(map(str, f(2))) == ['0', '1']",
            "i = f(1)\nassert [*i, *i] == [0]",
            "i = f(0)\ntry: next(i)\nexcept StopIteration: pass\nelse: assert False",
        ]
        self.assertEqual(self.grade(program, {"test_list": tests}).reward, 1.0)


class ValueTest(PoolTest):
    def test_scalars_of_numpy_are_numbers(self):
        program = "import numpy as np\ndef f(x): return list(np.cumsum(x)), np.sum(x), np.all(x)"
        tests = {"test_list": ["assert f([1, 2]) == ([1, 3], 3, True)"]}
        calls = {"fn_name": "f", "inputs": [[[1, 2]]], "outputs": [[[1, 3], 3, True]]}
        for given in (tests, calls):
            verdict = self.grade(program, given)
            self.assertEqual(verdict.reward, 1.0, verdict.detail)
            self.assertEqual(self.grade(program.replace("sum(x)", "max(x)"), given).reward, 0.0)

    def test_named_tuples_of_the_program_return_to_it(self):
        program = (
            "import collections\nPair = collections.namedtuple('Pair', 'a b')\n"
            "def f(pairs): return max(p.b for p in pairs)\ndef g(): return Pair(3, 4)\n"
            "def h(x): return (type(x) is tuple) and x"
        )
        tests = [
            "assert f([Pair(1, 2), Pair(3, 4)]) == 4",
            "assert g() == (3, 4) == Pair(3, 4) and g() != (3, 5)",
            "assert (g().a, g().b, g()[1], len(g())) == (3, 4, 4, 2)",
            # Those of the test code itself are tuples for the program.
            "import collections\nOwn = collections.namedtuple('Own', 'b')\nassert h(Own(5)) == (5,)",
        ]
        verdict = self.grade(program, {"test_list": tests})
        self.assertEqual(verdict.reward, 1.0, verdict.detail)
        forged = "class Pair(tuple):\n  _fields = 'ab'\n  __eq__ = lambda *_: True\ndef g(): return Pair((5, 5))"
        self.assertEqual(self.grade(forged, {"test_list": ["assert g() == (3, 4)"]}).reward, 0.0)

    @parameterized.named_parameters(
        ("dictionary", "{'a': 1, 'b': 2}", "x.pop('a')", "{'b': 2}"),
        ("default_dictionary", "collections.defaultdict(int, a=1, b=2)", "x.pop('a')", "{'b': 2}"),
        ("ordered_dictionary", "collections.OrderedDict(a=1, b=2)", "x.move_to_end('a')",
         "collections.OrderedDict(b=2, a=1)"),
        ("counter", "collections.Counter('aab')", "x.update('b')", "collections.Counter('aabb')"),
        ("deque", "collections.deque([1, 2], maxlen=3)", "x.rotate()", "collections.deque([2, 1])"),
        ("list", "[2, 1]", "x.sort()", "[1, 2]"),
        ("bytes", "bytearray(b'ab')", "x.reverse()", "b'ba'"),
        ("set", "{1, 2}", "x.discard(1)", "{2}"),
    )  # fmt: skip
    def test_changes_in_place(self, given, change, expected):
        test = (
            "def check(candidate):\n    import collections\n    for call in (lambda x: candidate(x),"
            f" lambda x: candidate(x=x)):\n        value = {given}\n        kind = type(value)\n"
            f"        call(value)\n        assert value == {expected} and type(value) is kind, value"
        )
        tests = {"entry_point": "f", "test": test}
        verdict = self.grade(f"def f(x): {change}", tests)
        self.assertEqual(verdict.reward, 1.0, verdict.detail)
        self.assertEqual(self.grade("def f(x): x", tests).reward, 0.0)


if __name__ == "__main__":
    absltest.main()
