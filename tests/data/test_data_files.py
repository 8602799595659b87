"""Files and rows that cannot be read, in training, evaluation and `data check` alike; encodings; numbers."""

import gzip
import json
import os
from decimal import Decimal
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo import data
from dgpo.config import ConfigError
from dgpo.data.files import DataError, answer_text, read_rows, row_fault
from dgpo.evaluation import benchmarks, settings
from dgpo.tasks.math import MathTask
from dgpo.verifier import Verdict, verify

TEXT = "problem,answer\nCost is 5 € – how much?,5\nWhat is 6?,6\n"
DEEP = '{"problem": "x", "answer": 1, "more": ' + "[" * 100_000 + "]" * 100_000 + "}\n"
GOOD = '{"problem": "What is 1+1?", "answer": "2"}\n'


class Tokenizer:
    """One token a character."""

    chat_template = None
    bos_token_id = bos_token = None

    def __call__(self, texts, **_):
        ids = [[*map(ord, text)] for text in texts] if isinstance(texts, list) else [*map(ord, texts)]
        return type("Encoding", (dict,), {"input_ids": ids})(input_ids=ids)


def parquet(path: Path, columns, **options) -> bytes:
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression=None, use_dictionary=False, **options)
    return path.read_bytes()


def spoilt(tmp_path) -> bytes:
    content = parquet(tmp_path / "scratch", {"problem": ["a", "b"], "answer": [1, 2]})
    return content[:20] + b"\xff" * 20 + content[40:]


def flipped(tmp_path) -> bytes:
    """A letter of a problem is another one: only the page's checksum can tell."""
    options = {"write_page_checksum": True, "write_statistics": False}
    return parquet(tmp_path / "scratch", {"problem": ["abcdef"], "answer": [1]}, **options).replace(
        b"abcdef", b"abCdef"
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", TEXT.encode("utf-16"), "not UTF-8; it looks like UTF-16, which encoding=utf-16 reads"),
        ("a.jsonl", GOOD.encode("utf-16-le"), "it looks like UTF-16-LE, which encoding=utf-16-le reads"),
        ("a.json", GOOD.encode("utf-16-be"), "it looks like UTF-16-BE, which encoding=utf-16-be reads"),
        ("a.csv", TEXT.encode("utf-32"), "it looks like UTF-32, which encoding=utf-32 reads"),
        (
            "a.json",
            '[{"problem": "café"}]'.encode("cp1252"),
            'not UTF-8 at byte 0xe9 after \'[{"problem": "caf\'; set encod',
        ),
        ("a.csv", "probl\xe8me,answer\n".encode("cp1252"), "the header is not UTF-8 at byte 0xe8 after 'probl'"),
        ("a.csv", b"problem,problem,answer\na,b,1\n", "the header names 'problem' twice"),
        ("a.csv", "problem,answer\ncaf\xe9,1\n".encode("cp1252"), "line 2: not UTF-8 at byte 0xe9 after 'caf'"),
        ("a.jsonl", GOOD.replace("\n", "\r").encode() * 2, "line 1: not a JSON object: Extra data"),
        ("a.csv", "pipe", "a pipe or device"),
        ("a.json", DEEP.encode(), "not JSON: nested too deep"),
        ("a.jsonl", gzip.compress(GOOD.encode()), "compressed by gzip: unpack it first"),
        ("a.parquet", spoilt, "not a Parquet file, or a corrupt one: "),
        ("a.parquet", flipped, "CRC checksum verification failed"),
        ("a.csv", "folder", "a folder, not a file of problems"),
        ("a.csv", "link", "a link to nowhere, which does not exist"),
        ("n" * 300 + ".csv", None, "File name too long"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 80 else "",
)
def test_a_file_that_cannot_be_read_is_one_line_that_names_it(tmp_path, capsys, name, content, said):
    path = tmp_path / name
    if content == "folder":
        path.mkdir()
    elif content == "link":
        path.symlink_to("nowhere")
    elif content == "pipe":
        os.mkfifo(path)
    elif content:
        path.write_bytes(content(tmp_path) if callable(content) else content)
    with pytest.raises(DataError) as error:
        MathTask(path, Tokenizer(), skip_bad_rows=True)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert cli.main(["data", "check", str(path)]) == 2
    assert said in capsys.readouterr().err


def test_a_file_that_may_not_be_opened(tmp_path, monkeypatch):
    (tmp_path / "a.csv").write_text(TEXT)

    def refuse(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=r"a\.csv: Permission denied"):
        list(read_rows(tmp_path / "a.csv"))


BAD_ROWS = [
    ("a.csv", TEXT.encode("cp1252"), 2, "not UTF-8 at byte 0x80 after 'Cost is 5 '; set encoding= to what it is"),
    ("a.csv", f"problem,answer\n{'x' * (2**24 + 1)},1\nb,2\n".encode(), 2, "field larger than field limit (16777216)"),
    ("a.jsonl", DEEP.encode() + GOOD.encode(), 1, "not a JSON object: nested too deep"),
    ("a.jsonl", b'"text"\n' + GOOD.encode(), 1, "not a JSON object but str"),
    (
        "a.jsonl",
        b'{"problem": "\\ud800", "answer": 1}\n' + GOOD.encode(),
        1,
        "'problem' holds the lone surrogate \\ud800",
    ),
    ("a.jsonl", b'{"problem": "x", "answer": "\\udfff"}\n' + GOOD.encode(), 1, "'answer' holds the lone surrogate"),
    (
        "a.jsonl",
        b'{"problem": "x", "answer": 1, "id": "\\udfff"}\n' + GOOD.encode(),
        1,
        "'id' holds the lone surrogate",
    ),
    ("a.jsonl", b'{"problem": "x", "answer": "so it is #### "}\n' + GOOD.encode(), 1, "nothing after its ####"),
    ("a.jsonl", b'{"problem": "x", "answer": Infinity}\n' + GOOD.encode(), 1, "'answer' is float inf, not a string or"),
    ("a.jsonl", b'{"problem": "x", "answer": 1e9999999999999999999}\n' + GOOD.encode(), 1, "exponent is out of range"),
]


@pytest.mark.parametrize(("name", "content", "line", "said"), BAD_ROWS, ids=[said for *_, said in BAD_ROWS])
def test_a_fault_of_a_row_is_named_listed_and_can_be_skipped(tmp_path, capsys, name, content, line, said):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        MathTask(path, Tokenizer())
    assert f"{path}, line {line}: " in str(error.value)
    assert said in str(error.value)
    task = MathTask(path, Tokenizer(), skip_bad_rows=True)
    assert (len(task), task.notes["skipped_rows"]) == (1, 1)
    assert cli.main(["data", "check", str(path)]) == 0
    out = capsys.readouterr().out
    assert "bad rows               1; skip_bad_rows=true leaves them out" in out
    assert said in out


def test_parquet_rows_with_bytes_that_are_no_text_and_short_floats(tmp_path):
    texts = pyarrow.array([b"What is 1+1?", b"caf\xe9"])
    texts = pyarrow.Array.from_buffers(pyarrow.string(), 2, texts.buffers())
    parquet(tmp_path / "a.parquet", {"problem": texts, "answer": pyarrow.array([0.1, None], pyarrow.float32())})
    first, second = read_rows(tmp_path / "a.parquet")
    assert first.values == {"problem": "What is 1+1?", "answer": 0.1}
    assert second.number == 2
    assert "not readable: 'utf-8' codec can't decode byte 0xe9" in second.fault


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "utf-8", "utf-8-sig", "gb18030"])
@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl"])
def test_encoding_says_how_a_file_is_written(tmp_path, encoding, suffix):
    rows = [{"problem": "Cost is 5 € – how much?", "answer": "5"}, {"problem": "What is 6?", "answer": "6"}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    text = {"csv": TEXT, "json": f"[{','.join(lines)}]", "jsonl": "\n".join(lines)}[suffix]
    path = tmp_path / f"own.{suffix}"
    path.write_bytes(text.encode(encoding))
    assert [row.values for row in read_rows(path, encoding)] == rows
    assert [row.text for row in data.load(path, encoding=encoding)[0]] == [row["problem"] for row in rows]
    assert MathTask(path, Tokenizer(), encoding=encoding, heldout=1).notes["skipped_rows"] == 0
    config = settings.load(benchmarks=["own"], model="m", data_dir=str(tmp_path), encoding=encoding)
    assert benchmarks.load("own", config, Tokenizer()).problems[0].prompt.startswith(rows[0]["problem"])


def test_a_file_that_is_utf_8_is_read_as_such_beside_one_that_is_not(tmp_path):
    """One setting serves `data` and `eval_data`: UTF-8 read as cp1252 would be wrong in silence."""
    (tmp_path / "a.csv").write_bytes(TEXT.encode())
    assert next(read_rows(tmp_path / "a.csv", "cp1252")).values["problem"] == "Cost is 5 € – how much?"


@pytest.mark.parametrize("name", ["nonsense", "rot13", "base64", "a\0b", ""])
def test_an_encoding_that_there_is_not(tmp_path, capsys, name):
    said = "must be one of Python's text codecs, such as utf-8"
    for load in (lambda: configs.load("tiny", encoding=name), lambda: settings.load(encoding=name)):
        with pytest.raises(ConfigError, match="encoding=") as error:
            load()
        assert said in str(error.value)
    (tmp_path / "a.csv").write_text(TEXT)
    assert cli.main(["data", "check", str(tmp_path / "a.csv"), "--encoding", name]) == 2
    assert said in capsys.readouterr().err


def test_a_long_field_of_a_csv_file_is_read(tmp_path):
    (tmp_path / "a.csv").write_text(f"problem,answer\n{'x' * 140_000},5\n")
    assert len(next(read_rows(tmp_path / "a.csv")).values["problem"]) == 140_000


@pytest.mark.parametrize(
    ("written", "text", "right"),
    [
        ("6.02e23", "6.02E+23", r"6.02 \times 10^{23}"),
        ("1.5e-7", "1.5E-7", r"1.5 \times 10^{-7}"),
        ("9007199254740993.0", "9007199254740993", "9007199254740993"),
        ("27.0", "27", "27"),
        ("2.50", "2.5", r"\frac{5}{2}"),
        ("-0.0", "-0", "0"),
    ],
)
def test_a_number_has_the_digits_that_were_written(tmp_path, written, text, right):
    (tmp_path / "a.jsonl").write_text(f'{{"problem": "x", "answer": {written}}}\n')
    row = next(read_rows(tmp_path / "a.jsonl"))
    assert row_fault(row, "problem", "answer") == ""
    assert answer_text(row.values["answer"]) == text
    assert verify(text, rf"\boxed{{{right}}}") == Verdict.correct


def test_a_float_of_a_parquet_file_has_no_digits_that_nobody_wrote():
    assert answer_text(6.02e23) == "6.02e+23"
    assert answer_text(Decimal("0.10")) == "0.1"
    assert verify("6.02e+23", r"\boxed{6.02 \times 10^{23}}") == Verdict.correct
