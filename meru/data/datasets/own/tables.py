"""Reads tables of images and captions: CSV and TSV in any dialect, JSON Lines, JSON and Parquet."""

from __future__ import annotations

import ast
import csv
import io
import json
import reprlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from meru.data.datasets.own.boxes import regions
from meru.data.datasets.own.columns import Columns, chosen_columns
from meru.data.datasets.own.rows import ENCODING, Row, image_names, label, sentences
from meru.data.texts import read_json, read_text
from meru.errors import UserError

if TYPE_CHECKING:
    import pyarrow

TEXT_ENDINGS, LINES, LIST, PARQUET = (".csv", ".tsv", ".txt", ".psv"), (".jsonl", ".ndjson"), ".json", ".parquet"
ENDINGS = (*TEXT_ENDINGS, *LINES, LIST, PARQUET)
DELIMITERS = (",", "\t", ";", "|")


class Table(NamedTuple):
    """A table as read from a file.

    Attributes:
        names: Of its columns.
        rows: Each row with its place in the file, for messages.
    """

    names: tuple[str, ...]
    rows: list[tuple[str, Mapping[str, object]]]


def table_rows(
    path: Path,
    *,
    columns: Mapping,
    split: str | None,
    box_format: str,
    encoding: str | None,
    class_word: str = "class",
    without: Collection[str] = (),
) -> tuple[list[Row], Columns]:
    """The rows of a table, and the columns that they were read from.

    Args:
        path: The file.
        columns: The names in the key `data.columns`; missing or null ones are guessed.
        split: The split of all rows; None: that of the column.
        box_format: One of `meru.data.datasets.own.boxes.FORMATS`.
        encoding: Of a text file; None: UTF-8, or UTF-16 with a byte order mark.
        class_word: What a class is, for messages.
        without: As for `chosen_columns`; with `split`, also its column.

    Raises:
        UserError: if the file cannot be read, lacks a column, has no rows, or for a bad cell.
    """
    table = read_table(path, encoding=encoding)
    if not table.rows:
        raise UserError(f"{path} has no rows: it must list images")
    used = chosen_columns(table.names, columns, path=path, without=(*without, *(("split",) if split else ())))
    rows = []
    for where, cells in table.rows:
        captions = sentences([cells.get(name) for name in used.captions], where) if used.captions else ()
        given = split or (label(cells.get(used.split), where, what="split") if used.split else None)
        if used.split and given is None:
            raise UserError(f"{where}: the column {used.split} is empty: give train, validation or test")
        known = {
            "where": where,
            "captions": captions,
            "class_name": label(cells.get(used.class_name), where, what=class_word) if used.class_name else None,
            "split": given,
            "regions": regions(cells.get(used.boxes), where, box_format=box_format) if used.boxes else (),
        }
        rows += [Row(image=name, **known) for name in image_names(cells.get(used.image), where)]
    return rows, used


def read_table(path: Path, *, encoding: str | None = None) -> Table:
    """Read a file by its ending.

    Raises:
        UserError: for another ending, or a file that cannot be read.
    """
    ending = path.suffix.lower()
    if ending == PARQUET:
        return _parquet(path)
    if ending in LINES:
        return _objects(path, _json_lines(path, encoding))
    if ending == LIST:
        return _objects(path, _json_list(path))
    if ending in TEXT_ENDINGS:
        return _delimited(path, read_text(path, encoding=encoding, advice=ENCODING))
    raise UserError(f"{path}: a table must end in {', '.join(ENDINGS)}; save it as CSV or JSON Lines")


def _delimited(path: Path, text: str) -> Table:
    """CSV in any dialect: the delimiter is the one that divides the first line into most parts."""
    first = text.lstrip("\n").partition("\n")[0]
    if not first.strip():
        raise UserError(f"{path} is empty: it must list images")
    delimiter = max(DELIMITERS, key=lambda each: (first.count(each), -DELIMITERS.index(each)))
    csv.field_size_limit(2**31 - 1)
    try:
        return Table(*_cells(path, text, delimiter, quoting=csv.QUOTE_MINIMAL))
    except csv.Error as error:
        if delimiter == ",":
            raise UserError(f"{path} is not CSV ({error}): check its quotation marks") from None
    return Table(*_cells(path, text, delimiter, quoting=csv.QUOTE_NONE))  # captions with single quotation marks


def _cells(path: Path, text: str, delimiter: str, *, quoting: int) -> tuple[tuple[str, ...], list]:
    strict = quoting != csv.QUOTE_NONE
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=strict, skipinitialspace=True
    )
    names: tuple[str, ...] = ()
    rows = []
    for cells in reader:
        cells = [cell.strip() for cell in cells]
        if not any(cells):
            continue
        if not names:
            names = tuple(cells)
            if twice := next((name for name in names if name and names.count(name) > 1), None):
                raise UserError(f"{path} has two columns {twice}: rename one")
            continue
        where = f"{path}, line {reader.line_num}"
        if len(cells) != len(names):
            raise UserError(
                f"{where} has {len(cells)} cells, but there are {len(names)} columns ({', '.join(names)}): put "
                "quotation marks around texts with a delimiter"
            )
        rows.append((where, {name: _listed(cell) for name, cell in zip(names, cells, strict=True)}))
    return names, rows


def _listed(cell: str) -> object:
    """A cell that holds a list of texts as that list, as data frames write it; any other cell as it is."""
    if not (cell.startswith("[") and cell.endswith("]")):
        return cell
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(cell)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
            return value
    return cell


def _json_lines(path: Path, encoding: str | None) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(read_text(path, encoding=encoding, advice=ENCODING).split("\n"), start=1):
        if line.strip():
            try:
                yield f"{path}, line {number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}, line {number} is not JSON ({error}): write one object a line") from None


def _json_list(path: Path) -> Iterator[tuple[str, object]]:
    value = read_json(path)
    if isinstance(value, dict):  # the list under its only key, as {"data": […]}
        lists = [each for each in value.values() if isinstance(each, list)]
        if len(lists) != 1:
            keys = ", ".join(map(str, list(value)[:8]))
            raise UserError(f"{path} is not a list of images but an object with {keys or 'no keys'}: write a list")
        (value,) = lists
    if not isinstance(value, list):
        raise UserError(f"{path} is {reprlib.repr(value)}, not a list of images")
    for number, each in enumerate(value, start=1):
        yield f"{path}, entry {number}", each


def _objects(path: Path, found: Iterator[tuple[str, object]]) -> Table:
    names: dict[str, None] = {}
    rows = []
    for where, each in found:
        if not isinstance(each, dict):
            raise UserError(f"{where} is {reprlib.repr(each)}, not an object with fields such as image and caption")
        names |= dict.fromkeys(each)
        rows.append((where, each))
    return Table(tuple(names), rows)


def _parquet(path: Path) -> Table:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            f'{path}: Parquet needs pyarrow: run `pip install pyarrow`, or save the table as CSV'
        ) from None
    try:
        schema = parquet.read_schema(path)
        stored = [field.name for field in schema if _holds_bytes(field.type)]
        table = parquet.read_table(path, columns=[name for name in schema.names if name not in stored])
    except (pyarrow.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(f"{path} cannot be read as Parquet ({reason}): restore the file") from None
    images = {name: {"bytes": None} for name in stored}  # large, and refused as paths
    rows = [(f"{path}, row {number}", {**row, **images}) for number, row in enumerate(table.to_pylist(), start=1)]
    return Table(tuple(schema.names), rows)


def _holds_bytes(kind: pyarrow.DataType) -> bool:
    from pyarrow import types

    inner = [kind.field(place).type for place in range(kind.num_fields)] if types.is_struct(kind) else [kind]
    return any(types.is_binary(each) or types.is_large_binary(each) for each in inner)
