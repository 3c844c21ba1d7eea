"""How different a coalition's variants are: clones cannot learn from each other.

Measured over the rationales that all variants wrote for the same questions: BLEU between the texts
of two variants (100: the same words), the share of questions that they answer differently, and the
KL divergence per token of one from the other, estimated on texts of the first.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from rationalize.evaluation.intervals import resampled_means
from rationalize.text import words


def bleu(hypotheses: Sequence[str], references: Sequence[str], order: int = 4) -> float:
    """Corpus BLEU in [0, 100] over lower-case words (Papineni et al. 2002). An n-gram order without
    any match counts as half a match. Raises `ValueError` where the numbers of texts differ.

    >>> round(bleu(["ice is cold so it slides"], ["ice is cold so it slides"]), 6)
    100.0
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"found {len(hypotheses)} hypotheses and {len(references)} references")
    # clipped n-gram matches over the whole corpus, by order
    matched, total = [0.0] * order, [0] * order
    length = reference_length = 0
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        ours, theirs = words(hypothesis), words(reference)
        length, reference_length = length + len(ours), reference_length + len(theirs)
        for n in range(1, order + 1):
            counts, reference_counts = _ngrams(ours, n), _ngrams(theirs, n)
            matched[n - 1] += sum(min(c, reference_counts[g]) for g, c in counts.items())
            total[n - 1] += sum(counts.values())
    # geometric mean of the precisions, times the brevity penalty
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
    """A row per pair of variants: `variants`, `n` shared texts, `bleu` (mean of both directions),
    `identical` and `disagreement` (shares, None without shared answers), `kl` in both directions.

    `texts` and `answers` are by variant and question id; `divergences` by ordered pair.
    """
    rows = []
    for a, b in combinations(texts, 2):
        shared = sorted(set(texts[a]) & set(texts[b]))
        texts_a, texts_b = [texts[a][i] for i in shared], [texts[b][i] for i in shared]
        answered = sorted(set(answers[a]) & set(answers[b]))
        differ = [answers[a][i] != answers[b][i] for i in answered]
        rows.append({
            "variants": [a, b], "n": len(shared),
            "bleu": (bleu(texts_a, texts_b) + bleu(texts_b, texts_a)) / 2,
            "identical": float(np.mean([x == y for x, y in zip(texts_a, texts_b, strict=True)])),
            "disagreement": float(np.mean(differ)) if differ else None,
            "kl": [divergences.get((a, b)), divergences.get((b, a))],
        })  # fmt: skip
    return rows


def variance_row(utilities: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """How far utilities vary between variants, and between draws of one, for the same question.

    `utilities` is by variant and question id: at least 2 draws each, equally many. `draws` is the
    mean variance within a variant, `variants` the variance component of the variants (it can be
    negative), `ratio` the F ratio with a 95 % interval over questions: 1 where variants differ no
    more than draws do. It is None where draws do not vary.
    """
    names = list(utilities)
    shared = [q for q in utilities[names[0]] if all(q in utilities[name] for name in names)]
    u_QVD = np.array([[utilities[name][q] for name in names] for q in shared], dtype=np.float64)
    count = u_QVD.shape[2]
    within_Q = u_QVD.var(axis=2, ddof=1).mean(axis=1)
    between_Q = count * u_QVD.mean(axis=2).var(axis=1, ddof=1)
    within, between = within_Q.mean(), between_Q.mean()
    facts = {"n": len(shared), "draws": float(within), "variants": float(between - within) / count}
    if not within:
        return {**facts, "ratio": None, "low": None, "high": None}
    # the same questions are drawn for both
    resampled = resampled_means(between_Q) / np.maximum(resampled_means(within_Q), 1e-300)
    low, high = np.percentile(resampled, [2.5, 97.5])
    return {**facts, "ratio": float(between / within), "low": float(low), "high": float(high)}


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))
