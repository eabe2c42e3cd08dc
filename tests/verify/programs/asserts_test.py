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

    _CATCH = "try: f(1)\nexcept %s: pass\nelse: assert False"

    @parameterized.named_parameters(
        ("subclass", "class E(ValueError): pass\ndef f(x): raise E(x)", "ValueError", 1.0),
        ("its_base", "class E(ValueError): pass\ndef f(x): raise E(x)", "Exception", 1.0),
        ("subclass_of_a_subclass", "class D(KeyError): pass\nclass E(D): pass\ndef f(x): raise E(x)", "LookupError", 1.0),
        ("of_the_library", "import json\ndef f(x): json.loads('{')", "ValueError", 1.0),
        ("of_more_than_a_text", "def f(x): b'\\xff'.decode()", "UnicodeError", 1.0),
        ("several", "def f(x): raise ExceptionGroup('g', [ValueError()])", "Exception", 1.0),
        ("another", "class E(KeyError): pass\ndef f(x): raise E(x)", "ValueError", 0.0),
        ("name_only", "class ValueError(Exception): pass\ndef f(x): raise ValueError(x)", "ValueError", 0.0),
        ("exit", "def f(x): raise SystemExit(0)", "Exception", 0.0),
        ("exit_asked_for", "def f(x): raise SystemExit(0)", "SystemExit", 1.0),
        ("interrupt", "def f(x): raise KeyboardInterrupt", "Exception", 0.0),
        ("base_exception", "class E(BaseException): pass\ndef f(x): raise E", "Exception", 0.0),
        ("base_exception_asked_for", "class E(BaseException): pass\ndef f(x): raise E", "BaseException", 1.0),
        ("generator_exit", "def f(x): raise GeneratorExit", "Exception", 0.0),
        ("end_of_the_process", "import os\ndef f(x): os._exit(0)", "BaseException", 0.0),
    )  # fmt: skip
    def test_except_catches_what_it_would_in_one_process(self, program, caught, reward):
        verdict = self.grade(program, {"test_list": [self._CATCH % caught]})
        self.assertEqual(verdict.reward, reward, verdict.detail)

    def test_the_class_of_the_program_is_named(self):
        program = "class Odd(ValueError): pass\ndef f(x): raise Odd('an odd number')"
        verdict = self.grade(program, {"test_list": ["assert f(1) == 2"]})
        self.assertEqual(verdict.detail, "test 1 of 1: assert f(1) == 2 -> Odd: an odd number")
        calls = {"fn_name": "f", "inputs": [[1]], "outputs": [2]}
        self.assertEqual(self.grade(program, calls).detail, "test 1 of 1: Odd: an odd number")


class UnfitTest(PoolTest):
    """Tests that pass to a program what cannot leave their own process."""

    @parameterized.named_parameters(
        ("function", "assert f(lambda x: x) == 1", "function"),
        ("in_a_list", "assert f([len]) == 1", "builtin_function_or_method"),
        ("class", "class A: pass\nassert f(A) == 1", "type"),
        ("object", "class A: pass\nassert f(A()) == 1", "A"),
        ("exception", "assert f(ValueError()) == 1", "ValueError"),
        ("module", "import math\nassert f(math) == 1", "module"),
        ("caught_by_the_test", "try: f(len)\nexcept: pass", "builtin_function_or_method"),
    )
    def test_it_is_to_blame_and_not_the_program(self, test, kind):
        program = "def f(x): return 1"
        name = self.id()
        with self.assertLogs() as logs:
            verdicts = [
                self.pool.submit(program, {"test_list": [test]}, where=name).result()
                for _ in range(2)
            ]
        for verdict in verdicts:
            self.assertEqual((verdict.reward, verdict.method), (0.0, "error"))
            self.assertIn(f"UnfitTest: the test passes a {kind}, which is no data", verdict.detail)
        (line,) = logs.output
        self.assertIn(f"{name}: no program can pass", line)

    def test_a_program_does_not_make_a_test_unfit(self):
        tests = {
            "prompt": "def f(x):\n    'One.'\n\ndef same(x):\n    return x\n",
            "entry_point": "f",
            "test": "def check(candidate):\n    assert same(candidate(1)) == 1\n",
        }
        verdict = self.grade("def f(x): return lambda: 1", tests)
        self.assertEqual((verdict.reward, verdict.method), (0.0, "error"))
        self.assertIn("the program returned an object", verdict.detail)
        self.assertEqual(self.grade("def f(x): return x", tests).reward, 1.0)
        self.assertNotIn("tests", self.pool.unfit)

    @parameterized.named_parameters(
        ("map", "map(int, '123')"), ("zip", "(a for a, in zip([1, 2, 3]))"), ("iter", "iter([1, 2, 3])"),
        ("generator", "(n for n in (1, 2, 3))"), ("itertools", "itertools.islice(itertools.count(1), 3)"),
    )  # fmt: skip
    def test_iterators_arrive_as_iterators(self, given):
        program = "def f(x): return next(x), sum(x), list(x)"
        test = f"import itertools\nx = {given}\nassert f(x) == (1, 5, []) and list(x) == []"
        verdict = self.grade(program, {"test_list": [test]})
        self.assertEqual(verdict.reward, 1.0, verdict.detail)

    def test_views_and_endless_iterators(self):
        test = "d = {1: 2}\nassert f(d.keys()) == f(d.values()) - 1 == 1"
        self.assertEqual(self.grade("def f(x): return sum(x)", {"test_list": [test]}).reward, 1.0)
        endless = "import itertools\nassert f(itertools.repeat(1)) == 1"
        future = self.pool.submit(
            "def f(x): return next(x)", {"test_list": [endless]}, where="endless"
        )
        verdict = future.result()
        self.assertIn("an iterator without an end", verdict.detail)


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
