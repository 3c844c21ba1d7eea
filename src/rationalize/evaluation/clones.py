"""How different variants are: a coalition of clones has nobody to learn from.

Over the rationales that all variants wrote for the same questions: BLEU between two variants' texts
(100: the same words), the share of questions that they answer differently, and the KL divergence
per token of one from the other, estimated on the first one's own texts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from rationalize.text import words


def bleu(hypotheses: Sequence[str], references: Sequence[str], order: int = 4) -> float:
    """Corpus BLEU in [0, 100] over lower-case words (Papineni et al., 2002), an order without any
    match counted as half a match.

    >>> round(bleu(["ice is cold so it slides"], ["ice is cold so it slides"]), 6)
    100.0
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses of {len(references)} references")
    matched, total = [0.0] * order, [0] * order
    length = reference_length = 0
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        own, other = words(hypothesis), words(reference)
        length, reference_length = length + len(own), reference_length + len(other)
        for n in range(1, order + 1):
            ours, theirs = _ngrams(own, n), _ngrams(other, n)
            matched[n - 1] += sum(min(c, theirs[g]) for g, c in ours.items())
            total[n - 1] += sum(ours.values())
    used = [(m or 0.5, t) for m, t in zip(matched, total, strict=True) if t]
    if not used or not length:
        return 0.0
    precision = math.exp(sum(math.log(m / t) for m, t in used) / len(used))
    return 100 * precision * min(1.0, math.exp(1 - reference_length / length))


def clone_rows(
    texts: Mapping[str, Mapping[str, str]],
    answers: Mapping[str, Mapping[str, str | None]],
    divergences: Mapping[tuple[str, str], float],
) -> list[dict[str, Any]]:
    """A row per pair of variants; `texts` and `answers` by variant and question id."""
    rows = []
    for a, b in combinations(texts, 2):
        both = ((a, b), (b, a))
        shared = sorted(set(texts[a]) & set(texts[b]))
        one, other = [texts[a][i] for i in shared], [texts[b][i] for i in shared]
        asked = sorted(set(answers[a]) & set(answers[b]))
        differ = [answers[a][i] != answers[b][i] for i in asked]
        rows.append(
            {
                "variants": [a, b],
                "n": len(shared),
                "bleu": (bleu(one, other) + bleu(other, one)) / 2,
                "identical": float(np.mean([x == y for x, y in zip(one, other, strict=True)])),
                "disagreement": float(np.mean(differ)) if differ else None,
                "kl": [divergences.get(pair) for pair in both],
            }
        )
    return rows


def format_clones(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as plain text."""
    lines = ["variants                   BLEU  identical  answers differ  KL per token"]
    for row in rows:
        kl = " / ".join("-" if x is None else f"{x:.3f}" for x in row["kl"])
        differ = "-" if row["disagreement"] is None else f"{100 * row['disagreement']:.1f} %"
        lines.append(
            f"{' and '.join(row['variants']):<25} {row['bleu']:5.1f}  "
            f"{100 * row['identical']:7.1f} %  {differ:>14}  {kl}"
        )
    return "\n".join(lines)


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
