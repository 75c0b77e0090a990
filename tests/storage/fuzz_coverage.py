"""Coverage-guided fuzzing of what reads files: nothing but typed errors may come of any bytes.

    python -m venv --system-site-packages fuzzing && fuzzing/bin/pip install atheris
    fuzzing/bin/python -m tests.storage.fuzz_coverage -max_total_time=600

An input is a byte that says what follows, and that: a file; or the header, model or history of one
of :func:`tests.storage.fuzz.bases` as JSON, of which a file with right checksums is made, so that
what is behind them is reached. Inputs that reach new lines of ``qfx.storage`` are kept, and changed
further: as bytes, and as the JSON that they are. Arguments are those of libFuzzer. What is found is
written to ``crash-...``, and ``python -m tests.storage.fuzz_coverage crash-...`` runs it again.
"""

from __future__ import annotations

import importlib
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HEADER = "header"


def seeds() -> Iterator[bytes]:
    """An input of every kind, of every base."""
    from qfx.storage.container import Container
    from qfx.storage.documents import HISTORY, MODEL, tensor_name, unpack
    from tests.storage.fuzz import bases

    for number, base in enumerate(bases()):
        container = Container(bytearray(base.data))
        length = int.from_bytes(base.data[:8], "little")
        yield _kind(number, 0) + base.data
        yield _kind(number, 1) + base.data[8 : 8 + length].rstrip()
        for at, document in enumerate((MODEL, HISTORY), start=2):
            if tensor_name(document) in container.entries:
                yield _kind(number, at) + json.dumps(unpack(container, document)).encode()


def _kind(base: int, what: int) -> bytes:
    return bytes([base * 4 + what])


def file_of(data: bytes) -> tuple[int, bytes] | None:
    """The number of a base and the file that an input stands for; None if it stands for none."""
    from qfx.storage.container import Container
    from qfx.storage.documents import HISTORY, MODEL
    from tests.storage.fuzz import bases, rewritten

    number, what = divmod(data[0] if data else 0, 4)
    if number >= len(bases()):
        return None
    base, text = bases()[number].data, data[1:]
    if what == 0:
        return number, text
    if what == 1:
        length = int.from_bytes(base[:8], "little")
        return number, len(text).to_bytes(8, "little") + text + base[8 + length :]
    try:
        content = json.loads(text)
        return number, rewritten(Container(bytearray(base)), (MODEL, HISTORY)[what - 2], content)
    except (ValueError, RecursionError):
        return None


def run(data: bytes) -> str:
    """Load what an input stands for; what came of it. Whatever is no typed error is raised."""
    from tests.storage.fuzz import bases, judge

    made = file_of(data)
    if made is None:
        return ""
    number, file = made
    verdict, fault = judge(bases()[number], "told", file)
    if fault:
        raise AssertionError(fault)
    return verdict


def mutated(data: bytes, most: int, seed: int, mutate: Callable[[bytes, int], bytes]) -> bytes:
    """Another input: JSON with a place changed, or other bytes."""
    from tests.storage.fuzz import changed

    rng = random.Random(seed)
    if not data or data[0] % 4 == 0 or rng.random() < 0.3:
        return mutate(data, most)
    try:
        content = changed(json.loads(data[1:]), rng)
        made = data[:1] + json.dumps(content).encode()
    except (ValueError, RecursionError):
        return mutate(data, most)
    return made if len(made) <= most else mutate(data, most)


def main() -> None:
    """The command."""
    atheris: Any = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["qfx.storage"]):
        fuzz = importlib.import_module("tests.storage.fuzz")
    fuzz.bases()
    fuzz.watch()
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds()):
            (Path(folder) / str(number)).write_bytes(seed)
        given = [each for each in sys.argv[1:] if not each.startswith("-")]
        arguments = [*sys.argv, *([] if given else [folder, "-max_len=100000"])]

        def mutator(data: bytes, most: int, seed: int) -> bytes:
            return mutated(data, most, seed, atheris.Mutate)

        def once(data: bytes) -> None:
            run(data)

        atheris.Setup(arguments, once, custom_mutator=mutator)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
