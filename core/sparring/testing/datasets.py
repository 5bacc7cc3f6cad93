"""Checks of data sets: loaded twice the same, in range, of the declared shape, and tested on what was not trained on."""

from __future__ import annotations

import functools
import hashlib
from collections import Counter

import torch

from sparring.errors import DataError
from sparring.facts import PublicData
from sparring.roles import Data
from sparring.signals import Examples
from sparring.specs import Config
from sparring.testing.fixtures import make_setup
from sparring.testing.kit import Inapplicable, check, demand
from sparring.testing.stage import same, tensors
from sparring.testing.subject import Subject, Trial, kind

SETS = kind("datasets")
LEAK = 0.01
"""Share of the test rows that may have an equal in the training data: real sources repeat themselves, splits must not."""
CODE = 1e-5
"""What single precision may put between a record and its code."""
LEFT_OUT = 0.05
"""Largest share of the rows that two seeds may leave out by more than each other: gaps between neighbouring slices do."""


@functools.lru_cache(maxsize=1)
def _loaded(subject: Subject, config: Config, seed: int) -> Data:
    data: Data = Trial(subject, config, False).build().load(make_setup("dataset", seed=seed))
    return data


def load(trial: Trial, seed: int = 0) -> Data:
    """The data; raises `Inapplicable` where the default configuration finds none at hand."""
    try:
        return _loaded(trial.subject, trial.config, seed)
    except DataError as error:
        if trial.config.model_fields_set:
            raise
        raise Inapplicable(f"its data are not at hand: {error}") from error


def _parts(data: Data) -> dict[str, Examples]:
    return {"train": data.train, "test": data.test, **({"public": data.public} if data.public is not None else {})}


@check(SETS)
def data_repeats(trial: Trial) -> None:
    """Law: loading twice under one key gives the same data, whatever the global generators hold.
    Why: a resumed run, and another worker, load it again.
    If this fails: draw splits from `ctx.generator()`, sort what the file system lists.
    """
    first = load(trial)
    before = torch.get_rng_state()
    second = trial.build().load(make_setup("dataset"))
    demand(torch.equal(before, torch.get_rng_state()), "loading moves torch's global generator")
    demand(same(tensors(first), tensors(second)), "two loads of one configuration under one key differ")


@check(SETS)
def data_valid(trial: Trial) -> None:
    """Law: inputs are finite, of the declared shape, in [0, 1] for images; labels are classes; groups and names fit.
    Why: models, attacks and games take exactly this for granted.
    If this fails: scale pixels by 1/255, count classes over the whole source, and split group columns with the rows.
    """
    data = load(trial)
    shape = data.shape
    demand(not data.names or len(data.names) == shape.classes, f"{len(data.names)} names for {shape.classes} classes")
    columns = {name: set(part.groups) for name, part in _parts(data).items()}
    demand(columns["train"] == columns["test"], f"group columns differ: {columns}")
    for name, part in _parts(data).items():
        demand(len(part) > 0, f"{name} is empty")
        demand(
            tuple(part.x.shape[1:]) == shape.inputs,
            f"{name} inputs have shape {tuple(part.x.shape[1:])}, declared {shape.inputs}",
        )
        demand(part.x.is_floating_point() and bool(part.x.isfinite().all()), f"{name} inputs are {part.x.dtype}, or not finite")
        if len(shape.inputs) == 3:
            low, high = float(part.x.min()), float(part.x.max())
            demand(low >= 0 and high <= 1, f"{name} pixels lie in [{low:g}, {high:g}]")
        wanted = (len(part),) if shape.task == "classification" else (len(part), *shape.inputs[1:])
        demand(tuple(part.y.shape) == wanted, f"{name} labels have shape {tuple(part.y.shape)}, not {wanted}")
        demand(part.y.dtype == torch.long, f"{name} labels are {part.y.dtype}, not int64")
        low_class, high_class = int(part.y.min()), int(part.y.max())
        demand(
            low_class >= 0 and high_class < shape.classes,
            f"{name} labels go from {low_class} to {high_class}, of {shape.classes} classes",
        )
        for column, values in part.groups.items():
            demand(len(values) == len(part), f"{name} group column '{column}' has {len(values)} values for {len(part)} rows")
            demand(bool(values.isfinite().all()), f"{name} group column '{column}' holds NaN or infinity")
    demand(len(data.names) in (0, shape.classes), f"{len(data.names)} names for {shape.classes} classes")
    demand(len(set(data.names)) == len(data.names), f"names of classes repeat: {data.names[:6]}")


@check(SETS)
def columns_fit(trial: Trial) -> None:
    """Law: declared columns tile the features; every record holds one of a category's codes, and training numbers their range.
    Why: attacks on records search among these codes and within this range, and the game counts columns by them.
    If this fails: take codes and ranges from the data as they are handed out, after standardisation.
    """
    data = load(trial)
    columns = data.shape.columns
    if not columns:
        raise Inapplicable("it says nothing of columns")
    ends = [(c.at, c.at + c.width) for c in columns]
    tiled = [start for start, _ in ends] == [0, *(stop for _, stop in ends[:-1])] and (ends[-1][1],) == data.shape.inputs
    demand(tiled, f"columns {ends[:6]} do not tile {data.shape.inputs} features")
    demand(len({c.name for c in columns}) == len(columns), "two columns have one name")
    for column in columns:
        for name, part in _parts(data).items():
            own = part.x[:, column.at : column.at + column.width].double()
            if column.codes:
                off = torch.cdist(own, torch.tensor(column.codes, dtype=torch.float64)).min(1).values.max()
                demand(float(off) <= CODE, f"{name} holds a '{column.name}' that is {float(off):g} from every code")
            elif name == "train":
                inside = float(own.min()) >= column.low and float(own.max()) <= column.high
                demand(inside and column.width == 1, f"'{column.name}' is no number in [{column.low:g}, {column.high:g}]")
                demand(column.close > 0, f"'{column.name}' is a number, and nothing is close to it")


@check(SETS)
def public_declared(trial: Trial) -> None:
    """Law: a data set gives PublicData if and only if it has public examples.
    Why: the checker lets distillation and auxiliary-data attacks stand on it before anything is loaded.
    If this fails: give the fact under the configurations that load `Data.public`, and under no others.
    """
    says = any(isinstance(fact, PublicData) for fact in trial.signature.gives)
    has = load(trial).public is not None
    demand(says == has, f"it {'gives' if says else 'does not give'} PublicData, and has {'' if has else 'no '}public examples")


@check(SETS)
def split_apart(trial: Trial) -> None:
    """Law: at most one test row in a hundred has an equal, label included, in training; one public row in a hundred, in either.
    Why: accuracy and membership are measured on data that was not trained on.
    If this fails: split by a permutation, each row once; remove duplicates of the source before splitting.
    """
    data = load(trial)
    held = _digests(data.train)
    shared = sum(row in held for row in _digests(data.test).elements())
    demand(shared <= LEAK * len(data.test), f"{shared} of {len(data.test)} test rows are among the training rows")
    if data.public is not None:
        held |= _digests(data.test)
        shared = sum(row in held for row in _digests(data.public).elements())
        few = shared <= LEAK * len(data.public)
        demand(few, f"{shared} of {len(data.public)} public rows are among the training or test rows")


@check(SETS)
def source_complete(trial: Trial) -> None:
    """Law: under another seed no row of a source is there more or less often, and at most one row in twenty is left out.
    Why: a split that loses or repeats rows gives another experiment for each seed.
    If this fails: split by one permutation of the whole source; take every index once, but for a gap between neighbours.
    """
    first, other = (_whole(load(trial, seed)) for seed in (0, 1))
    sizes = first.total(), other.total()
    close = abs(sizes[0] - sizes[1]) <= LEFT_OUT * max(sizes)
    demand(close, f"seed 0 gives {sizes[0]} rows in all, seed 1 {sizes[1]}")
    uneven = sum(first[row] != other[row] for row in first.keys() & other.keys())
    demand(uneven == 0, f"{uneven} rows are there more often under one of two seeds than under the other")


def _whole(data: Data) -> Counter[bytes]:
    """Every row of every part with how often it is there."""
    counts: Counter[bytes] = Counter()
    for part in _parts(data).values():
        counts += _digests(part)
    return counts


def _digests(examples: Examples) -> Counter[bytes]:
    """A digest of each row, label included, with how often it is there."""
    x, y = examples.x.contiguous().numpy(), examples.y.contiguous().numpy()
    rows = (inputs.tobytes() + target.tobytes() for inputs, target in zip(x, y, strict=True))
    return Counter(hashlib.blake2b(row, digest_size=16).digest() for row in rows)
