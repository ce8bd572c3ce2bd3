"""Tests of scripts/benchmarks: `python3 -m unittest discover --start-directory scripts`."""

import importlib.machinery
import importlib.util
import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
loader = importlib.machinery.SourceFileLoader("benchmarks", str(HERE / "benchmarks"))
benchmarks = importlib.util.module_from_spec(importlib.util.spec_from_loader("benchmarks", loader))
loader.exec_module(benchmarks)

PRINTED = """
rooms: 1200 users, 2 messages a second on each channel, 0 bytes more
server CPU per delivery                              14.3 µs
deliveries                                          14400 /s
lost                                                    0 
sent to received p95                                 0.40 ms

live: a view of 100
deliveries                                              5 /s
"""


class Benchmarks(unittest.TestCase):
    def test_figures_are_read_with_their_headings_and_units(self):
        first, second = benchmarks.figures(PRINTED)
        self.assertTrue(first["heading"].startswith("rooms: 1200 users"))
        self.assertEqual(first["figures"]["server CPU per delivery"], [14.3, "µs"])
        self.assertEqual(first["figures"]["lost"], [0, ""])
        self.assertEqual(second["figures"], {"deliveries": [5, "/s"]})

    def test_what_was_not_measured_is_said(self):
        kept = {"runs": {"broadcast": {"command": "realtime-bench rooms", "groups": benchmarks.figures(PRINTED)}}}
        self.assertEqual(benchmarks.value(kept, "broadcast", "sent to received p95"), 0.4)
        self.assertEqual(benchmarks.value(kept, "broadcast", "deliveries", "live"), 5)
        self.assertIsNone(benchmarks.value(kept, "joins", "deliveries"))
        self.assertEqual(benchmarks.shown(None), "not measured")
        self.assertEqual(benchmarks.shown(12345.6, "/s"), "12\u202f346 /s")

    def test_every_workload_is_a_scenario(self):
        scenarios = (HERE.parent / "crates/bench/src/main.rs").read_text().lower()
        for command in benchmarks.WORKLOADS.values():
            self.assertIn(f"scenario::{command.split()[0]}(", scenarios)


if __name__ == "__main__":
    unittest.main()
