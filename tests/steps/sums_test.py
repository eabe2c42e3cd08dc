"""Sums over shards do not depend on how the shards are grouped."""

import json
import random
from fractions import Fraction

from absl.testing import absltest

from restem.steps.sums import Sums


class SumsTest(absltest.TestCase):
    def test_groups_of_shards_and_messages_change_no_digit(self):
        rng = random.Random(0)
        parts = [
            [rng.uniform(-1, 1) * 10 ** rng.randint(-9, 9) for _ in range(7)] for _ in range(40)
        ]
        shards = []
        for part in parts:
            sums = Sums()
            sums.count(samples=len(part), positive=sum(v > 0 for v in part))
            sums.observe("value", part)
            shards.append(sums)
        for hosts in (1, 3, 7):
            own = [Sums() for _ in range(hosts)]
            order = list(enumerate(shards))
            rng.shuffle(order)
            for i, sums in order:
                own[i % hosts].add(sums)
            told = [json.loads(json.dumps(sums.to_json())) for sums in own]
            total = Sums.of_hosts(told)
            self.assertEqual(total["samples"], 280)
            self.assertEqual(total["positive"], sum(v > 0 for part in parts for v in part))
            exact = float(sum(Fraction(v) for part in parts for v in part) / 280)
            self.assertEqual(total.mean("value", 280), exact)
            every = [v for part in parts for v in part]
            self.assertEqual(total.bounds["value"], (min(every), max(every)))

    def test_nothing(self):
        sums = Sums.of_hosts([Sums().to_json()])
        self.assertEqual((sums["samples"], sums.mean("value", 0), sums.bounds), (0, 0.0, {}))


if __name__ == "__main__":
    absltest.main()
