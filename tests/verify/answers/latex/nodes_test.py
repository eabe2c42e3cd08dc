"""Syntax trees: value equality, hashing, walks and rewritings."""

from absl.testing import absltest, parameterized

from restem.verify.answers.latex.nodes import (
    Matrix,
    Negation,
    Node,
    Numeral,
    Power,
    Product,
    Quantity,
    Relation,
    Sum,
    Symbol,
    Union,
    number,
)
from restem.verify.answers.latex.walks import (
    mentions,
    mentions_kind,
    negative,
    substitute,
    variables,
    walk,
)

X, Y = Symbol("x"), Symbol("y")


class NodesTest(parameterized.TestCase):
    def test_equal_by_value(self):
        a, b = Sum((X, number(2))), Sum((X, number(2)))
        self.assertEqual(a, b)
        self.assertEqual(hash(a), hash(b))
        self.assertLen({a, b}, 1)

    @parameterized.parameters(
        (Sum((X, Y)), Sum((Y, X))),
        (Sum((X, Y)), Product((X, Y))),
        (Symbol("x"), Symbol("X")),
        (Relation((X, Y), ("<",)), Relation((X, Y), ("<=",))),
        (Numeral("11", 2), Numeral("11", 3)),
        (number(1), 1),
    )
    def test_unequal(self, a, b):
        self.assertNotEqual(a, b)

    def test_walk_visits_rows_and_values(self):
        tree = Matrix(((X, Power(Y, number(2))), (Quantity(number(3), (("cm", 1),)), X)))
        kinds = [type(part).__name__ for part in walk(tree)]
        self.assertEqual(kinds.count("Symbol"), 3)
        self.assertEqual(kinds.count("Number"), 2)
        self.assertEqual(variables(tree), {"x", "y"})
        self.assertTrue(mentions(tree, number(3)))
        self.assertFalse(mentions(tree, number(4)))
        self.assertTrue(mentions_kind(tree, Quantity))
        self.assertFalse(mentions_kind(tree, Union))

    def test_substitute(self):
        tree = Relation((Sum((X, Power(Y, X))), number(1)), ("=",))
        wanted = Relation((Sum((number(5), Power(Y, number(5)))), number(1)), ("=",))
        self.assertEqual(substitute(tree, {"x": number(5)}), wanted)
        self.assertEqual(substitute(tree, {}), tree)

    @parameterized.parameters(
        (number(3), number(-3)),
        (Numeral("11", 2), Numeral("-11", 2)),
        (Numeral("-11", 2), Negation(Numeral("-11", 2))),
        (X, Negation(X)),
    )
    def test_negative(self, node, wanted):
        self.assertEqual(negative(node), wanted)

    def test_every_kind_names_its_children(self):
        """A kind whose fields hold nodes and that forgets `children` would hide them from walks."""
        for kind in Node.__subclasses__():
            fields = kind.__dataclass_fields__.values()
            if any("Node" in field.type for field in fields):
                self.assertIn("children", vars(kind), kind)


if __name__ == "__main__":
    absltest.main()
