"""Gather texts for the examples from what every machine with Lightmill has: docstrings of Python and of its packages.

Run: python examples/gather.py text-classifier
     python examples/gather.py tiny-llama

Nothing is imported or downloaded: the files of the packages are parsed. `texts.jsonl` gets one docstring a line with
the package that it comes from, `tokenizer.json` a byte pair encoding that is trained on them (extra "text").
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

try:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
except ImportError as exc:
    raise SystemExit(f"This example needs the package tokenizers ({exc}); install it with: make extras") from exc

HERE = Path(__file__).parent
PACKAGES = ("numpy", "ray", "sqlalchemy", "torch")
LENGTHS = (60, 2_000)  # shorter ones say too little; longer ones are mostly tables
MOST = {"text-classifier": 1_000, "tiny-llama": 1_200}
VOCABULARY = {"text-classifier": 2_048, "tiny-llama": 1_024}


def folders() -> dict[str, Path]:
    """Return where the files of each class lie."""
    found = {"python": Path(sysconfig.get_paths()["stdlib"])}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise SystemExit(f"There is no package {name!r} here; install Lightmill first.")
        found[name] = Path(spec.origin).parent
    return found


def docstrings(folder: Path) -> Iterator[str]:
    """Yield the docstrings of all files below a folder, in the order of their names."""
    for file in sorted(folder.rglob("*.py")):
        if {"site-packages", "test", "tests"} & set(file.relative_to(folder).parts):
            continue
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text and LENGTHS[0] <= len(text) <= LENGTHS[1]:
                    yield text


def gathered(most: int) -> list[dict[str, str]]:
    """Return at most so many different texts of each class."""
    rows: list[dict[str, str]] = []
    seen: set[str] = set()
    for name, folder in folders().items():
        count = 0
        for text in docstrings(folder):
            if text not in seen:
                seen.add(text)
                rows.append({"text": text, "package": name})
                count += 1
            if count == most:
                break
    return rows


def tokenizer_of(texts: list[str], size: int) -> Tokenizer:
    """Return a byte pair encoding of texts; id 0 pads, 1 is the first token of a text and 2 its end."""
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["[PAD]", "[CLS]", "[END]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    return made


def main(example: str) -> None:
    """Write the files of one example."""
    folder = HERE / example
    rows = gathered(MOST[example])
    with (folder / "texts.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    tokenizer_of([row["text"] for row in rows], VOCABULARY[example]).save(str(folder / "tokenizer.json"))
    sys.stdout.write(f"{len(rows)} texts in {folder / 'texts.jsonl'}\n")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in MOST:
        raise SystemExit(f"Give one of {', '.join(MOST)}.")
    main(sys.argv[1])
