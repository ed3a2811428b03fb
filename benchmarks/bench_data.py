"""How fast data is prepared, and how much of what it looks for is found.

``make bench-data``. Everything runs on one core, one after the other, and rates are per second of
processor time, so that other work on the machine does not count; but preparation as a whole is done
once more by the clock, with the processes that a job would have. Near duplicates: a seeded corpus
with planted ones, against the exact Jaccard similarity of all pairs; beside it datasketch where it
is installed (``pip install datasketch``). Personal data: ``pii.jsonl``, written for this, with hard
cases and look-alikes. Prints a table; exits with 1 when a target is missed.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from benchmarks.corpus import corpus, quality, shingles_of, without_near
from tunesmith_api.cleaning import Clean, TextPolicy
from tunesmith_api.dataset import Checks, DataFormat, Dataset, TooLong, Training
from tunesmith_trainer.data.cleaning import Cleaner
from tunesmith_trainer.data.compression import SourceFile
from tunesmith_trainer.data.masking import Kind, Masker
from tunesmith_trainer.data.prepared import write_split
from tunesmith_trainer.data.reading import Reading, Row, read_rows
from tunesmith_trainer.data.repeats import Repeats
from tunesmith_trainer.data.rowfile import RowFile
from tunesmith_trainer.data.rows import Reader
from tunesmith_trainer.data.scratch import Scratch
from tunesmith_trainer.data.splitting import split_rows
from tunesmith_trainer.data.spreading import spare_processes
from tunesmith_trainer.data.tally import Tally
from tunesmith_trainer.data.templates import load_tokenizer
from tunesmith_trainer.data.tokenizing import RowTokenizer
from tunesmith_trainer.tiny import write_tiny

SCRATCH = Scratch(Path(tempfile.gettempdir()))
PII = Path(__file__).with_name("pii.jsonl")
SIMILARITY = 0.85
DOCUMENTS = 20_000
PEER_DOCUMENTS = 4_000
RUNS = 3
TARGETS = {
    "near duplicates, documents/s": 6000.0,
    "near duplicates, F1": 0.95,
    "exact duplicates, rows/s": 20_000.0,
    "personal data, MB/s": 1.0,
    "personal data, lowest recall of a kind": 0.9,
    "preparation in total, rows/s": 3000.0,
}


def rows_of(documents: Iterable[str]) -> list[Row]:
    return [
        Row(
            orjson.dumps(
                [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]
            ),
            "corpus",
            line,
        )
        for line, text in enumerate(documents, 1)
    ]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


def ours(documents: list[str]) -> tuple[float, set[int]]:
    rows = rows_of(documents)
    clean = Clean.model_validate({"deduplicate": "Near", "similarity": str(SIMILARITY)})

    def work() -> set[int]:
        tally = Tally()
        stay = list(Cleaner(clean, tally, SCRATCH).clean(rows))
        kept = Repeats(clean, tally, SCRATCH).resolve([stay])[0]
        return {row.line - 1 for row in kept.rows}

    seconds, kept = timed(work)
    return len(documents) / seconds, set(range(len(documents))) - kept


def datasketch(documents: list[str]) -> tuple[float, set[int]] | None:
    """Do the same as its documentation does: a row goes if the index has one like it."""
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError:
        return None

    def work() -> set[int]:
        index = MinHashLSH(threshold=SIMILARITY, num_perm=128)
        removed = set()
        for number, text in enumerate(documents):
            signature = MinHash(num_perm=128)
            signature.update_batch([" ".join(s).encode() for s in shingles_of(text)])
            if index.query(signature):
                removed.add(number)
            else:
                index.insert(number, signature)
        return removed

    seconds, removed = timed(work)
    return len(documents) / seconds, removed


def bench_near() -> dict[str, float]:
    documents = corpus(DOCUMENTS)
    every = set(range(DOCUMENTS))
    wanted = every - without_near([shingles_of(text) for text in documents], SIMILARITY)
    ours(documents[:2000])  # Memory and tables are there afterwards.
    rate, removed = ours(documents)
    precision, recall, f1 = quality(removed, wanted)
    size = sum(map(len, documents)) / DOCUMENTS
    print(f"{DOCUMENTS} documents of {size:.0f} characters, {len(wanted)} to be removed")
    line("near duplicates", "documents/s", rate, f"P {precision:.4f} R {recall:.4f} F1 {f1:.4f}")
    few = documents[:PEER_DOCUMENTS]
    wanted = set(range(len(few))) - without_near([shingles_of(t) for t in few], SIMILARITY)
    beside, _ = ours(few)
    if (peer := datasketch(few)) is None:
        print("  datasketch is not installed: not compared")
    else:
        scores = "P {:.4f} R {:.4f} F1 {:.4f}".format(*quality(peer[1], wanted))
        line(f"  datasketch, {len(few)}", "documents/s", peer[0], scores)
        line(
            f"  ours, {len(few)}", "documents/s", beside, f"{beside / peer[0]:.1f} times datasketch"
        )
    return {"near duplicates, documents/s": rate, "near duplicates, F1": f1}


def bench_exact() -> dict[str, float]:
    documents = corpus(5000)
    rows = rows_of(documents * 10)
    tally = Tally()
    seconds, kept = timed(lambda: list(Cleaner(Clean(), tally, SCRATCH).clean(rows)))
    rate = len(rows) / seconds
    line("exact duplicates", "rows/s", rate, f"{len(kept)} of {len(rows)} stay")
    return {"exact duplicates, rows/s": rate}


def bench_pii() -> dict[str, float]:
    labelled = [json.loads(text) for text in PII.read_text().splitlines()]
    masker = Masker(dict.fromkeys(Kind, TextPolicy.MASK))
    wanted, right, found = Counter[str](), Counter[str](), Counter[str]()
    for row in labelled:
        seen: Counter[Kind] = Counter()
        masked = masker.mask(row["text"], seen)
        expected = row["text"]
        for piece in row["pieces"]:
            expected = expected.replace(piece["text"], f"[{piece['kind']}]", 1)
            wanted[piece["kind"]] += 1
            # A piece counts when the whole text is as it should be, or it at least is.
            if masked == expected or piece["text"] not in masked:
                right[piece["kind"]] += f"[{piece['kind']}]" in masked
        found.update({kind.value: count for kind, count in seen.items()})
    for kind in Kind:
        name = kind.value
        line(
            f"  {name}",
            "recall",
            right[name] / wanted[name],
            f"precision {right[name] / max(1, found[name]):.3f} of {wanted[name]}",
        )
    documents = corpus(4000)
    texts = [
        f"{text} {labelled[number % len(labelled)]['text']}" if number % 4 == 0 else text
        for number, text in enumerate(documents)
    ]
    seconds, _ = timed(lambda: [masker.mask(text, Counter()) for text in texts])
    rate = sum(len(text.encode()) for text in texts) / seconds / 1e6
    line("personal data", "MB/s", rate, "a piece in every fourth row")
    recall = min(right[kind.value] / wanted[kind.value] for kind in Kind)
    return {"personal data, MB/s": rate, "personal data, lowest recall of a kind": recall}


def bench_total(directory: Path) -> dict[str, float]:
    """From a file of JSON lines to tokens: read, repair, mask, deduplicate, split, tokenize."""
    path = directory / "rows.jsonl"
    documents = corpus(DOCUMENTS)
    write_halves(path, documents)
    write_tiny(directory / "tiny")
    dataset = Dataset(train=Training(uri=f"file://{path}"))
    built_in = load_tokenizer(directory / "tiny", dataset)
    # The built-in model's has a token a byte; real ones have one for about four.
    tokenizer = built_in.train_new_from_iterator(documents[:1000], 4096, show_progress=False)
    clean = Clean.model_validate(
        {"unicode": "Repair", "whitespace": "Normalize", "pii": "Mask", "deduplicate": "Near"}
    )

    scratch = Scratch(directory)

    def gather() -> list[Sequence[Row]]:
        tally, reading = Tally(), Reading(Checks())
        reader = Reader(DataFormat.AUTO, dataset)
        read = read_rows([SourceFile(path.name, path)], reader, reading, lambda: None)
        kept = RowFile(directory / "rows", scratch).extend(
            Cleaner(clean, tally, scratch).clean(read)
        )
        part = Repeats(clean, tally, scratch).resolve([kept])[0]
        none, test = Decimal(0), Decimal(10)
        sides = split_rows(part.rows, part.clusters, 17, scratch, validation=none, test=test)
        return [sides.train, sides.test]

    def tokenize(sides: list[Sequence[Row]], workers: int = 0) -> None:
        reading = Reading(Checks())
        tokens = RowTokenizer(tokenizer, 4096, TooLong.TRUNCATE, reading, workers=workers)
        for name, rows in zip(("train", "test"), sides, strict=True):
            write_split(directory / "prepared", name, tokens.tokenize(rows, lambda _: None))

    first, sides = timed(gather)
    second, _ = timed(lambda: tokenize(sides))
    stay = sum(map(len, sides))
    line("  read, clean, split", "rows/s", DOCUMENTS / first, f"{stay} stay")
    line("  tokenize", "rows/s", stay / second, "a vocabulary of 4,096")
    size = f"{path.stat().st_size / DOCUMENTS:.0f} bytes a row"
    line("  both, on one core", "rows/s", DOCUMENTS / (first + second), size)
    return by_the_clock(lambda workers: tokenize(gather(), workers))


def write_halves(path: Path, documents: list[str]) -> None:
    half = 250
    with path.open("wb") as file:
        for text in documents:
            row = {"prompt": text[:half], "response": text[half : 2 * half] or "Yes."}
            file.write(orjson.dumps(row) + b"\n")


def by_the_clock(prepare: Callable[[int], None]) -> dict[str, float]:
    workers = spare_processes()
    seconds = []
    for _ in range(RUNS):
        begin = time.monotonic()
        prepare(workers)
        seconds.append(time.monotonic() - begin)
    rate = DOCUMENTS / min(seconds)
    load = os.getloadavg()[0]
    note = f"by the clock, {1 + workers} processes, quickest of {RUNS}; load {load:.1f}"
    line("preparation in total", "rows/s", rate, note)
    return {"preparation in total, rows/s": rate}


def line(name: str, unit: str, value: float, note: str) -> None:
    figure = f"{value:,.0f}" if value >= 100 else f"{value:.3f}"
    print(f"{name:<26}{figure:>12} {unit:<12} {note}")


def verdicts(measured: dict[str, float]) -> Iterator[bool]:
    for name, target in TARGETS.items():
        is_met = measured[name] >= target
        verdict = "met     " if is_met else "MISSED  "
        print(f"{verdict}{name}: {measured[name]:,.2f}, target {target:,}")
        yield is_met


def main() -> int:
    """Run the benchmark; returns the exit code."""
    measured = bench_near() | bench_exact() | bench_pii()
    with tempfile.TemporaryDirectory() as directory:
        measured |= bench_total(Path(directory))
    return 0 if all(list(verdicts(measured))) else 1


if __name__ == "__main__":
    sys.exit(main())
