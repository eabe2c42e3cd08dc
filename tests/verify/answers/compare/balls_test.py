"""Ball arithmetic: the balls hold the value, and the root bound holds."""

import random
from fractions import Fraction

from absl.testing import absltest, parameterized

from restem.verify.answers.compare import balls


class BallTest(parameterized.TestCase):
    @parameterized.parameters(53, 200, 1000)
    def test_balls_hold_the_value(self, bits):
        """Random expressions: the ball at low precision contains the value at high precision."""
        numbers = random.Random(bits)
        for _ in range(60):
            steps = [(numbers.choice("+*/r-"), numbers.randint(1, 40)) for _ in range(8)]

            def run(steps=steps):
                value = Fraction(2)
                for operation, n in steps:
                    if operation == "+":
                        value = balls.add(value, balls.root(Fraction(n), 3, n))
                    elif operation == "*":
                        value = balls.multiply(value, balls.root(Fraction(n), 2, n))
                    elif operation == "/":
                        value = balls.invert(balls.add(value, Fraction(n)))
                    elif operation == "r":
                        value = balls.root(balls.add(value, Fraction(n, 7)), 2, (n, str(steps)))
                    else:
                        value = balls.add(value, balls.negate(Fraction(n, 9)))
                return balls.ball(value)

            balls.MP.prec = bits
            try:
                coarse = run()
                balls.MP.prec = 3 * bits + 200
                fine = run()
            except ArithmeticError:
                continue
            gap = abs(coarse.center - fine.center)
            self.assertLessEqual(
                gap, balls.MP.ldexp(1, coarse.error) + balls.MP.ldexp(1, fine.error)
            )

    def test_root_bound_of_a_known_case(self):
        """sqrt 2 - 1: u = 1 + sqrt 2, so |x| >= 1/u when it is not zero, and it is 0.41."""
        balls.MP.prec = 100
        value = balls.add(balls.root(Fraction(2), 2, 2), Fraction(-1))
        self.assertAlmostEqual(float(value.center), 2**0.5 - 1)
        bits = value.algebraic.zero_bits()
        self.assertLess(2.0**-bits, 2**0.5 - 1)
        self.assertLess(bits, 5)


if __name__ == "__main__":
    absltest.main()
