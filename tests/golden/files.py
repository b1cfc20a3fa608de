"""The frozen numbers on disk, a text file for each verb, and how far others are from them."""

import json
from pathlib import Path

import numpy as np

FOLDER = Path(__file__).parent / "frozen"
_SMALL = 1e-3  # of the largest number of an array: what is smaller is held to as much as that


def read(verb):
    """All cases of a verb: name of the case to name of the array to array."""
    path = FOLDER / f"{verb}.json"
    if not path.is_file():
        return {}
    known = json.loads(path.read_text(encoding="utf-8"))
    return {
        case: {name: np.asarray(value, dtype=float) for name, value in arrays.items()}
        for case, arrays in known.items()
    }


def write(verb, cases):
    """Write them so that a line holds one row of an array, every number with all its digits."""
    blocks = []
    for case, arrays in sorted(cases.items()):
        lines = [
            f"  {json.dumps(name)}: {_text(np.asarray(value, dtype=float).tolist(), 3)}"
            for name, value in arrays.items()
        ]
        blocks.append(f" {json.dumps(case)}: {{\n" + ",\n".join(lines) + "\n }")
    FOLDER.mkdir(exist_ok=True)
    text = "{\n" + ",\n".join(blocks) + "\n}\n"
    (FOLDER / f"{verb}.json").write_text(text, encoding="utf-8")


def _text(value, indent):
    if isinstance(value, list) and value and isinstance(value[0], list):
        margin = " " * indent
        return "[\n" + ",\n".join(margin + _text(v, indent + 1) for v in value) + "]"
    return json.dumps(value, separators=(",", ":"))


def difference(found, frozen):
    """The largest relative difference of two arrays, infinite where NaN or the shape differs."""
    found, frozen = np.asarray(found, dtype=float), np.asarray(frozen, dtype=float)
    if found.shape != frozen.shape:
        return np.inf
    known = np.isfinite(frozen)
    if not np.array_equal(found[~known], frozen[~known], equal_nan=True):
        return np.inf
    found, frozen = found[known], frozen[known]
    off = np.abs(found - frozen)
    if not np.isfinite(off).all():
        return np.inf
    unit = np.maximum(np.abs(frozen), _SMALL * np.abs(frozen).max(initial=0.0))
    with np.errstate(divide="ignore", over="ignore"):
        return float(np.max(off[off > 0.0] / unit[off > 0.0], initial=0.0))


def changes(found, frozen, rtol):
    """A line for each array that is not the frozen one."""
    lines = [f"{name}: is new" for name in found if name not in frozen]
    lines += [f"{name}: is gone" for name in frozen if name not in found]
    for name in found.keys() & frozen.keys():
        shapes = np.shape(found[name]), np.shape(frozen[name])
        largest = difference(found[name], frozen[name])
        if shapes[0] != shapes[1]:
            lines.append(f"{name}: has shape {shapes[0]}, frozen {shapes[1]}")
        elif not largest <= rtol:
            lines.append(f"{name}: differs by {largest:.2g} of its size (rtol {rtol:g})")
    return sorted(lines)
