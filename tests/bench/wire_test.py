#!/usr/bin/env python3
"""The bad link of bench/testbed does to frames what it says: no device and no root needed."""
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "bench"))

from testbed_lib.wire import Way, Weather

FRAMES, EVERY_S = 20_000, 0.0005


def arrivals(weather, seed=7):
    """When each frame was sent, and arrives; those that are lost are left out."""
    way = Way(weather, seed)
    sent = [i * EVERY_S for i in range(FRAMES)]
    return [(moment, due) for moment, due in ((moment, way.arrival(moment)) for moment in sent) if due is not None]


class WayTest(unittest.TestCase):
    def test_delay_and_jitter_keep_the_order(self):
        frames = arrivals(Weather(delay_ms=50, jitter_ms=20))
        self.assertEqual(len(frames), FRAMES)
        dues = [due for _, due in frames]
        self.assertEqual(dues, sorted(dues))
        delays = [due - moment for moment, due in frames]
        self.assertGreater(min(delays), 0.0299)
        self.assertLess(max(delays), 0.0701)
        self.assertGreater(max(delays) - min(delays), 0.005)

    def test_a_share_is_lost_and_a_share_is_overtaken(self):
        frames = arrivals(Weather(lost=0.01, held_back=0.05))
        self.assertAlmostEqual(1 - len(frames) / FRAMES, 0.01, delta=0.003)
        overtaken = sum(later < due for (_, due), (_, later) in zip(frames, frames[1:]))
        self.assertAlmostEqual(overtaken / len(frames), 0.05, delta=0.01)

    def test_a_seed_says_it_all(self):
        weather = Weather(delay_ms=20, jitter_ms=10, lost=0.02, held_back=0.1)
        self.assertEqual(arrivals(weather), arrivals(weather))
        self.assertNotEqual(arrivals(weather), arrivals(weather, seed=8))


if __name__ == "__main__":
    unittest.main()
