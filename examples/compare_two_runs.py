"""Two runs side by side: the same questions, paired differences, one report.

    python examples/compare_two_runs.py runs/first runs/second [report.html]

Runs are folders of `rationalize train`, `demo` or `evaluate`.
"""

import sys
from pathlib import Path

from rationalize import compare_runs, write_report
from rationalize.evaluation.tables import format_table, splits_of


def main(first: Path, second: Path, page: Path) -> dict:
    results, attempts, questions = compare_runs([first, second])
    write_report(results, attempts, questions, page)
    for split in splits_of(results):
        print(format_table(results, split), end="\n\n")
    for row in results["comparisons"]:
        if row["metric"] in ("accuracy", "stated_accuracy"):
            interval = f"[{row['low']:+.3f}, {row['high']:+.3f}]"
            tested = f"p = {row['p']:.3f}, corrected {row['p_holm']:.3f}"
            difference = f"{row['a']} - {row['b']}, {row['metric']}"
            print(f"{difference}: {row['mean']:+.3f} {interval}, {tested}")
    return results


if __name__ == "__main__":
    first, second, *page = map(Path, sys.argv[1:])
    main(first, second, page[0] if page else Path("report.html"))
