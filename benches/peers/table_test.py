"""The table shows every loss, and takes nothing for a figure that is none. `python3 -B benches/peers/table_test.py`."""

import unittest

import measure
import table


def row(server, delivered, p50, p99, **more):
    """A row of a run at saturation."""
    result = {
        "scenario": "fanout",
        "delivered_per_second": delivered,
        "delivered_per_cpu_second": delivered,
        "server_busy_percent": 100,
        "latency": {"p50_ms": p50, "p99_ms": p99, "p999_ms": 9.0},
        **more,
    }
    return {"case": "saturation-64", "server": server, "profile": "default", "result": result, "error": None}


def lines(rows):
    """The cells of each server's line."""
    groups = {}
    for one in rows:
        groups.setdefault((one["server"], one["profile"]), []).append(one)
    section = table.sections(None)["saturation-64"]
    text = section.markdown({key: table.Group(some) for key, some in groups.items()})
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[4:]]
    return {line[0].split(",")[0]: line[1:] for line in cells}


class Tables(unittest.TestCase):
    """What readers rely on."""

    def test_each_figure_that_is_better_than_ours_is_marked(self):
        """Also where the one that is compared is ours."""
        shown = lines([row("tidegate", 4e6, 2.0, 5.0), row("bun", 2e6, 1.0, 7.0), row("ws", 8e6, 3.0, 5.0)])
        self.assertEqual(shown["Tidegate"][:6], ["4.00", "4.00", "100", "2.00", "5.00", "9.00"])
        self.assertEqual(shown["Bun"][:6], ["2.00", "2.00", "100", "**1.00**", "7.00", "9.00"])
        self.assertEqual(shown["npm ws"][:6], ["**8.00**", "**8.00**", "100", "3.00", "5.00", "9.00"])
        self.assertIn("(we lose)", shown["npm ws"][7])

    def test_a_run_without_a_sample_is_an_error_and_no_figure(self):
        """Its medians would be those of the others and of nothing."""
        self.assertTrue(measure.has_no_sample(row("bun", 1, 1, 1, latency=None)["result"]))
        self.assertFalse(measure.has_no_sample(row("bun", 1, 1, 1)["result"]))
        self.assertTrue(measure.has_no_sample({"scenario": "slow", "slow_age": None}))
        self.assertFalse(measure.has_no_sample({"scenario": "idle"}))
        broken = {**row("bun", 1, 1, 1), "result": None, "error": "nothing arrived while it was measured"}
        shown = lines([row("tidegate", 4e6, 2.0, 5.0), row("bun", 2e6, 3.0, 7.0), broken])
        self.assertEqual(shown["Bun"][0], "2.00")
        self.assertEqual(shown["Bun"][3], "3.00")
        self.assertIn("nothing arrived", shown["Bun"][-1])
        # One that was kept from before is none either.
        shown = lines([row("tidegate", 4e6, 2.0, 5.0, latency=None), row("bun", 2e6, 3.0, 7.0)])
        self.assertEqual(shown["Tidegate"][3], "—")
        self.assertEqual(shown["Bun"][3], "3.00", "there is nothing to be better than")


if __name__ == "__main__":
    unittest.main()
