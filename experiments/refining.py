"""What refinement is worth on the controller's held-out questions, over several seeds of COALITION.

python experiments/refining.py runs/coalition-0 runs/coalition-1 runs/coalition-2
"""

from __future__ import annotations

import sys

from rationalize.evaluation.refining import refining_rows, refining_utilities
from rationalize.report.coalition import as_text, refining
from rationalize.runs import Run


def main() -> None:
    found = []
    for path in sys.argv[1:]:
        run = Run.read(path)
        reference = run.read_json("controller-utilities.json")
        found.append(refining_utilities(reference, run.read_shard("controller-utilities")))
    print(as_text(refining(refining_rows(found))))


if __name__ == "__main__":
    main()
