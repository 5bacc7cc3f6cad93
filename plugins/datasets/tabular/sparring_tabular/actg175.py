"""ACTG 175: records of patients of an HIV trial, with sensitive attributes."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, final

import torch
from sparring_arrays import checks, files
from sparring_arrays.split import split
from torch import Tensor

from sparring.errors import DataError
from sparring.roles import Data, Dataset
from sparring.signals import DataShape, Examples
from sparring_tabular.standard import columns, standardised

if TYPE_CHECKING:
    from sparring.context import Setup
    from sparring_tabular.plugin import Actg175Config

BASELINE = (
    "age", "wtkg", "hemo", "homo", "drugs", "karnof", "oprior", "z30", "preanti", "race", "gender", "symptom", "cd40", "cd80",
)  # fmt: skip
FOLLOW_UP = ("cd420", "cd820", "offtrt")
LEVELS = {"strat": (1, 2, 3), "arms": (0, 1, 2, 3)}
GROUPS = ("race", "gender", "homo", "hemo", "drugs", "symptom", "arms")
CATEGORIES = {"hemo", "homo", "drugs", "oprior", "z30", "race", "gender", "symptom", "offtrt", *LEVELS}
AGES = (30, 40, 50)
TARGET = "cens"


@final
class Actg175(Dataset):
    """Feature vectors [N, F] of what was known at the start of the trial; the target is its outcome `cens`.

    Classes: 0 censored, 1 event (the CD4 count fell by half, AIDS, or death); a quarter of the patients. Features: age, weight,
    risk factors, Karnofsky score, earlier treatment, race, gender, symptoms, CD4 and CD8 counts, the stratum of earlier
    treatment and the arm of the trial (one-hot); standardised on the training part. `days`, which ends at the outcome, and
    columns with gaps or a single value are left out. Groups: `race` (0 white, 1 not), `gender` (0 female, 1 male), `homo`,
    `hemo`, `drugs`, `symptom`, `arms`, and `age` in the bands below 30, 40, 50 and above.

    Source: S. M. Hammer et al., A trial comparing nucleoside monotherapy with combination therapy in HIV-infected adults with
    CD4 cell counts from 200 to 500 per cubic millimeter, New England Journal of Medicine 335(15), 1996.
    """

    def __init__(self, config: Actg175Config) -> None:
        self.config = config

    def load(self, ctx: Setup) -> Data:
        """The patients, with a stratified test part drawn from the layer's stream."""
        table = read(files.package_file("actg175", "lifelines", "datasets", "ACTG175.csv"))
        names = [n for n in BASELINE + (FOLLOW_UP if self.config.follow_up else ()) if n not in self.config.exclude]
        raw = [table[name] for name in names] + [table[name] == level for name, levels in LEVELS.items() for level in levels]
        x = checks.features(torch.stack([c.double() for c in raw], dim=1), "actg175")
        groups = {name: table[name].to(torch.int64) for name in GROUPS}
        groups["age"] = torch.bucketize(table["age"].contiguous(), torch.tensor(AGES, dtype=torch.float64), right=True)
        shape = DataShape((x.shape[1],), 2)
        y = checks.labels(table[TARGET].to(torch.int64), "actg175")
        whole: Examples = checks.examples(x, y, shape, "actg175", groups)
        at, held_out = split(whole.y, self.config.test_fraction, ctx.generator())
        train, test = standardised(whole.take(at), whole.take(held_out))
        headings = [*names, *(name for name, levels in LEVELS.items() for _ in levels)]
        shape = replace(shape, columns=columns(train.x, headings, CATEGORIES))
        return Data(train, test, shape, ("censored", "event"))


def read(path: Path) -> dict[str, Tensor]:
    """The columns [N], float64, that are used; raises `DataError` for a missing column or a value that is no number."""
    used = (*BASELINE, *FOLLOW_UP, *LEVELS, TARGET)
    with path.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines)
        missing = [name for name in used if name not in (rows.fieldnames or ())]
        if missing:
            raise DataError(f"actg175: '{path}' has no column {', '.join(missing)}; install another version of lifelines")
        try:
            table = [[float(row[name]) for name in used] for row in rows]
        except (TypeError, ValueError) as error:
            raise DataError(f"actg175: '{path}', line {rows.line_num}: {error}; install lifelines again") from error
    if not table:
        raise DataError(f"actg175: '{path}' has no rows; install lifelines again")
    values = torch.tensor(table, dtype=torch.float64)
    return dict(zip(used, values.T, strict=True))
