"""Let a model behind an OpenAI-style server be the teacher: keep what led it to the right answer.

    RATIONALIZE_API_KEY=... python examples/teacher_behind_a_server.py \\
        https://host/v1 big-model builtin sft.jsonl

Eight questions, four samples each. Every answer is kept on disk as it arrives: a second start pays
for nothing again. The result has TRL's columns; `rationalize sample --server .. --keep-correct
--write questions` does the same for `rationalize train`.
"""

import sys
from pathlib import Path

from rationalize import (
    Attempt,
    Provenance,
    SamplingConfig,
    ServerSampler,
    is_correct,
    load_questions,
    write_attempts,
)
from rationalize.attempt_files import write_sft_jsonl

SAMPLES = SamplingConfig(temperature=0.7, n=4, max_new_tokens=96)


def main(server: str, model: str, source: str, out: Path) -> list[Attempt]:
    questions = {q.id: q for q in load_questions(source, limit=8)}
    sampler = ServerSampler(server, model)
    attempts = write_attempts(
        sampler, list(questions.values()), SAMPLES, Provenance("train", seed=0)
    )
    kept = [
        a for a in attempts if is_correct(a.prediction, a.gold, questions[a.question_id].choices)
    ]
    write_sft_jsonl(kept, out)
    print(f"{out}: {len(kept)} of {len(attempts)} attempts led to the right answer")
    print(sampler.bill)
    return kept


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], Path(sys.argv[4]))
