"""The rows of a problem file (JSONL, JSON, CSV, Parquet) or of a dataset on the hub, and what is wrong with a row.

A file that cannot be read raises DataError; a row that cannot be read carries its fault.
"""

import codecs
import csv
import json
import math
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from dgpo.data.messages import messages_fault, problem_text
from dgpo.errors import Explained, first_line
from dgpo.plain import text_encoding
from dgpo.verifier.answer import MAX_ANSWER

FORMATS = (".jsonl", ".json", ".parquet", ".csv")
_HUB_NAME = re.compile(r"[\w-]+/[\w.-]+(?::\w+)?")
_UNDECODED = re.compile("[\udc80-\udcff]")  # what errors="surrogateescape" makes of a byte that fits no character
_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_FIELD = 1 << 24  # characters of a CSV field: room for any solution, and a bound for a quote that is never closed


class DataError(Explained, ValueError):
    """A data file cannot be used; the message names the file, the line and what is there."""

    exit_code = 2


class FileRow(NamedTuple):
    """A row of a problem file: its line or row number, its fields by name, and its fault ("" if it could be read)."""

    number: int
    values: dict[str, Any]
    fault: str = ""


def read_rows(data: str | Path, encoding: str = "utf-8") -> Iterator[FileRow]:
    """The rows of a file or a dataset; a row that cannot be read has a fault and no values.

    `encoding` is for text files that are not UTF-8. Raises DataError, one line that names the file.
    """
    path = Path(data)
    try:
        text_encoding(encoding)
    except ValueError as error:
        raise DataError(f"encoding={encoding!r} {error}") from None
    if not _is_file(path):
        if path.suffix in FORMATS or not _HUB_NAME.fullmatch(str(data)):
            raise DataError(f"{data}: no such file, and not the hub name of a dataset (owner/name or owner/name:split)")
        rows = _hub_rows(str(data))
    elif path.suffix == ".parquet":
        rows = _parquet_rows(path)
    elif path.suffix in FORMATS:
        rows = {".jsonl": _jsonl_rows, ".json": _json_rows, ".csv": _csv_rows}[path.suffix](path, encoding)
    else:
        raise DataError(f"{data}: the file must be one of {', '.join(FORMATS)}")
    try:
        yield from rows
    except OSError as error:
        raise DataError(f"{data}: {error.strerror or error}") from None
    except UnicodeError as error:
        raise DataError(f"{data}: cannot be read with encoding={encoding}: {error}") from None


def checked_rows(
    data: str | Path, encoding: str, problem_field: str, answer_field: str, needs_answer: bool = True
) -> Iterator[tuple[FileRow, str]]:
    """The rows of `read_rows`, each with its fault ("": none); the problems are all texts or all messages."""
    first: FileRow | None = None
    for found in read_rows(data, encoding):
        fault = row_fault(found, problem_field, answer_field, needs_answer)
        if not fault:
            first = first or found
            is_list = isinstance(found.values[problem_field], list)
            if is_list != isinstance(first.values[problem_field], list):
                kinds = ("a list of messages", "a text") if is_list else ("a text", "a list of messages")
                fault = (
                    f"field {problem_field!r} is {kinds[0]} and in line {first.number} {kinds[1]}: make all rows alike"
                )
        yield found, fault


def row_fault(found: FileRow, problem_field: str, answer_field: str, needs_answer: bool = True) -> str:
    """What is wrong with a row of `read_rows`; empty if nothing is."""
    if found.fault:
        return found.fault
    row = found.values
    needed = (problem_field, answer_field) if needs_answer or answer_field in row else (problem_field,)
    for field in needed:
        value = row.get(field)
        if field not in row:
            return f"no field {field!r}; the row has {', '.join(map(repr, row)) or 'none'}"
        if is_empty(value):
            return f"field {field!r} is empty; the row has {', '.join(map(repr, row))}"
        if isinstance(value, list) and field == problem_field:
            if fault := messages_fault(value):
                return f"field {field!r}: {fault}"
        elif not isinstance(value, str) and not (_is_number(value) and field == answer_field):
            wanted = "a string or a number" if field == answer_field else "a string or a list of messages"
            return f"field {field!r} is {type(value).__name__} {value!r}, not {wanted}"
    for field in (problem_field, answer_field, "id"):
        value = row.get(field, "")
        if lone := _SURROGATE.search(problem_text(value) if isinstance(value, list) else str(value)):
            return f"field {field!r} holds the lone surrogate \\u{ord(lone[0]):04x}, half of a character"
    if answer_field not in needed:
        return ""
    if not (length := len(answer_text(row[answer_field]))):
        return f"field {answer_field!r} has nothing after its ####"
    if length > MAX_ANSWER:
        return f"field {answer_field!r} has {length} characters; the verifier reads at most {MAX_ANSWER}"
    return ""


def is_empty(value) -> bool:
    """Whether a field holds nothing: None, NaN, or a string of whitespace."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())  # NaN is not itself


def answer_text(answer: str | int | float | Decimal) -> str:
    """A reference answer as text: 27.0 is "27", 6.02e23 keeps its exponent, a worked GSM8K solution gives what
    follows `####`."""
    text = str(answer)  # the fewest digits that identify a float: int(6.02e23) would be 601999999999999995805696
    if isinstance(answer, float | Decimal) and re.fullmatch(r"-?\d+\.\d+", text):
        return text.rstrip("0").rstrip(".")
    return text.rpartition("####")[2].strip()


def _is_number(value) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool) and math.isfinite(value)


def _is_file(path: Path) -> bool:
    """Whether a path is a file. Raises DataError for a folder, a broken link and a path that cannot be looked up."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise DataError(f"{path}: a link to {os.readlink(path)}, which does not exist") from None
        return False
    except (OSError, ValueError) as error:  # no permission, a name too long, a zero byte in it
        raise DataError(f"{path}: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISDIR(mode) and not _HUB_NAME.fullmatch(str(path)):
        raise DataError(f"{path}: a folder, not a file of problems")
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise DataError(f"{path}: a pipe or device; problems are read more than once, from a file")
    return stat.S_ISREG(mode)


def _jsonl_rows(path: Path, encoding: str):
    with _open(path, encoding, newline="\n") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield _as_row(number, _parse(line, encoding))
                except ValueError as error:
                    yield FileRow(number, {}, f"not a JSON object: {error}")


def _json_rows(path: Path, encoding: str):
    with _open(path, encoding) as file:
        text = file.read()
    try:
        rows = _parse(text, encoding)
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}") from None
    if not isinstance(rows, list):
        raise DataError(f"{path}: must be a list of rows, not {type(rows).__name__}")
    yield from map(_as_row, count(1), rows)


def _parse(text: str, encoding: str):
    """Parse JSON; fractions keep the digits they are written with. Raises ValueError."""
    if fault := _undecoded(text, encoding):
        raise ValueError(fault)
    try:
        return json.loads(text.lstrip("\ufeff"), parse_float=Decimal)
    except RecursionError:
        raise ValueError("nested too deep") from None
    except ArithmeticError:
        raise ValueError("a number's exponent is out of range") from None


def _as_row(number: int, value) -> FileRow:
    if isinstance(value, dict):
        return FileRow(number, value)
    return FileRow(number, {}, f"not a JSON object but {type(value).__name__}")


def _csv_rows(path: Path, encoding: str):
    csv.field_size_limit(max(_MAX_FIELD, csv.field_size_limit()))
    with _open(path, encoding) as file:
        reader = csv.DictReader(file)
        try:
            header = "".join(reader.fieldnames or ())
        except csv.Error as error:
            raise DataError(f"{path}: the header is not CSV: {error}") from None
        if fault := _undecoded(header, encoding):
            raise DataError(f"{path}: the header is {fault}")
        if twice := [name for name, count in Counter(reader.fieldnames or ()).items() if name and count > 1]:
            raise DataError(f"{path}: the header names {twice[0]!r} twice")
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield FileRow(reader.reader.line_num, {}, f"not a CSV row: {error}")
                continue
            if None in row:
                fault = "more columns than the header has"
            else:
                fault = _undecoded("".join(filter(None, row.values())), encoding)
            yield FileRow(reader.line_num, {} if fault else row, fault)


def _open(path: Path, encoding: str, newline: str = "") -> TextIO:
    """Open a text file; a byte that does not fit its encoding is kept as a surrogate.

    Raises DataError for a file that should be UTF-8 and looks like something else.
    """
    with path.open("rb") as file:
        head = file.read(4096)
        if _is_utf8(encoding) or _decodes(head + file.read()):
            encoding = "utf-8-sig"
    if encoding == "utf-8-sig":
        if head.startswith(b"\x1f\x8b"):
            raise DataError(f"{path}: compressed by gzip: unpack it first")
        if other := _looks_like(head):
            raise DataError(f"{path}: not UTF-8; it looks like {other.upper()}, which encoding={other} reads")
    return path.open(encoding=encoding, errors="surrogateescape", newline=newline)


def _is_utf8(encoding: str) -> bool:
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def _decodes(content: bytes) -> bool:
    """Whether bytes are surely UTF-8: they hold characters outside ASCII, which no other encoding writes so."""
    try:
        return not content.isascii() and bool(content.decode())
    except UnicodeDecodeError:
        return False


def _looks_like(head: bytes) -> str:
    """The encoding that the first bytes of a file suggest if they cannot be UTF-8; else ""."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = head[::2].count(0), head[1::2].count(0)
    if even + odd <= len(head) // 8:  # where UTF-16 writes ASCII, half of its bytes are 0
        return ""
    return "utf-16-be" if even > odd else "utf-16-le"


def _undecoded(text: str, encoding: str) -> str:
    """What is wrong with text that `_open` read; "" if nothing is."""
    if not (found := _UNDECODED.search(text)):
        return ""
    name = "UTF-8" if _is_utf8(encoding) else encoding
    before = text[max(0, found.start() - 20) : found.start()]
    return (
        f"not {name} at byte 0x{ord(found[0]) - 0xDC00:02x} after {before!r}; "
        "set encoding= to what it is, such as cp1252 (Windows)"
    )


def _parquet_rows(path: Path):
    import pyarrow
    from pyarrow.parquet import ParquetFile

    read = 0
    try:
        for batch in ParquetFile(path, page_checksum_verification=True).iter_batches():
            yield from _arrow_rows(batch, read + 1)
            read += len(batch)
    except (pyarrow.ArrowException, OSError) as error:
        where = f"cannot be read beyond row {read}" if read else "not a Parquet file, or a corrupt one"
        raise DataError(f"{path}: {where}: {first_line(error)}") from None


def _arrow_rows(batch, first: int) -> Iterator[FileRow]:
    """The rows of an Arrow batch, numbered from `first`; 32-bit floats get the digits they were written with."""
    import pyarrow

    try:
        rows = batch.to_pylist()
    except ValueError as error:  # bytes that are not UTF-8, or a date beyond Python's: read row by row
        if len(batch) == 1:
            yield FileRow(first, {}, f"not readable: {error}")
            return
        for i in range(len(batch)):
            yield from _arrow_rows(batch.slice(i, 1), first + i)
        return
    for name, kind in zip(batch.schema.names, batch.schema.types, strict=True):
        if kind in (pyarrow.float32(), pyarrow.float16()):
            for row, short in zip(rows, batch.column(name).to_numpy(zero_copy_only=False), strict=True):
                row[name] = None if row[name] is None else float(str(short))
    for number, row in enumerate(rows, first):
        yield FileRow(number, row)


def _hub_rows(name: str):
    import datasets
    from datasets.exceptions import DatasetsError

    name, _, split = name.partition(":")
    try:
        dataset = datasets.load_dataset(name, split=split or "train")
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(f"{name}: neither a file here nor a dataset that can be loaded: {first_line(error)}") from error
    for number, row in enumerate(dataset, 1):
        yield FileRow(number, dict(row))
