"""Mutants of the checks of data sets, models and accountants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sparring.claims import Event, GaussianEvent
from sparring.errors import DataError
from sparring.facts import PerExample
from sparring.roles import (
    Accountant,
    Data,
    Dataset,
    Model,
)
from sparring.signals import Column, DataShape, Examples
from sparring.signature import ALL, Signature
from sparring.specs import (
    AccountantSpec,
    DatasetSpec,
    Empty,
    ModelSpec,
)
from sparring.testing.accountants import gaussian_epsilon
from tests.kit.making import Made, mutant


def dataset(
    load: Callable[[Any], tuple[Tensor, Tensor]],
    split: Callable[[Tensor], Tensor] = lambda order: order[80:],
    change: Callable[[Data], Data] = lambda data: data,
) -> Made:
    class Made_(Dataset):
        def load(self, ctx: Any) -> Data:
            x, y = load(ctx)
            order = torch.randperm(len(x), generator=ctx.generator())
            whole = Examples(x, y)
            return change(Data(whole.take(order[:80]), whole.take(split(order)), DataShape((1, 4, 4), 3)))

    return DatasetSpec(
        api=1,
        name="set",
        config=Empty,
        summary="a set",
        build=lambda c: Made_(),
        licence="none",
        source="drawn",
        stands_for="nothing",
    )


def drawn(ctx: Any) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(100, 1, 4, 4, generator=generator), torch.randint(3, (100,), generator=generator)


@mutant("data-repeats")
def _(broken: bool) -> Made:
    return dataset(lambda ctx: (torch.rand(100, 1, 4, 4), drawn(ctx)[1]) if broken else drawn(ctx))


@mutant("data-valid")
def _(broken: bool) -> Made:
    return dataset(lambda ctx: (drawn(ctx)[0] * (255 if broken else 1), drawn(ctx)[1]))


def described(change: Callable[[Column], Column]) -> Made:
    """Records of a number and a category, and what is said of them."""

    def said(data: Data) -> Data:
        parts = [
            replace(part, x=torch.cat([part.x[:, 0, 0, :1], (part.x[:, 0, 0, 1:3] > 0.5).float()], 1))
            for part in (data.train, data.test)
        ]
        number = Column("age", 0, low=float(parts[0].x[:, 0].min()), high=float(parts[0].x[:, 0].max()), close=0.1)
        pair = change(Column("pair", 1, 2, codes=((0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0))))
        return replace(data, train=parts[0], test=parts[1], shape=DataShape((3,), 3, columns=(number, pair)))

    return dataset(drawn, change=said)


@mutant("columns-fit")
def _(broken: bool) -> Made:
    return described(lambda pair: replace(pair, codes=pair.codes[:3]) if broken else pair)


@mutant("columns-fit", "tiles")
def _(broken: bool) -> Made:
    return described(lambda pair: replace(pair, at=0) if broken else pair)


@mutant("columns-fit", "numbers")
def _(broken: bool) -> Made:
    def number(pair: Column) -> Column:
        return replace(pair, codes=(), width=1, close=0.1)

    return described(number if broken else lambda pair: pair)


@mutant("data-valid", "names")
def _(broken: bool) -> Made:
    names = ("a", "b", "a" if broken else "c")
    return dataset(drawn, change=lambda data: replace(data, names=names))


def grouped(data: Data, ages: Tensor) -> Data:
    train, test = (replace(part, groups={"age": ages[: len(part)]}) for part in (data.train, data.test))
    return replace(data, train=train, test=test)


@mutant("data-valid", "groups")
def _(broken: bool) -> Made:
    ages = torch.full((80,), torch.nan if broken else 30.0)
    return dataset(drawn, change=lambda data: grouped(data, ages))


@mutant("split-apart", "public")
def _(broken: bool) -> Made:
    def public(data: Data) -> Data:
        others = Examples(1 - data.test.x, data.test.y)
        return replace(data, public=data.test if broken else others)

    return dataset(drawn, change=public)


@mutant("source-complete")
def _(broken: bool) -> Made:
    def load(ctx: Any) -> tuple[Tensor, Tensor]:
        x, y = drawn(ctx)
        index = torch.randint(100, (100,), generator=ctx.generator()) if broken else torch.arange(100)
        return x[index], y[index]

    return dataset(load)


@mutant("source-complete", "sizes")
def _(broken: bool) -> Made:
    return dataset(drawn, lambda order: order[80 + (int(order[0]) % 20 if broken else 0) :])


class Exponential(nn.Linear):
    """Positive features: the exponential of an input without a bound (``flaw``), or softplus."""

    flaw = False

    def forward(self, x: Tensor) -> Tensor:
        features = x.exp() if self.flaw else nn.functional.softplus(x)
        return super().forward(features)


@mutant("output-finite")
def _(broken: bool) -> Made:
    def make(d: int, k: int) -> nn.Module:
        module = Exponential(d, k)
        module.flaw = broken
        return module

    return model(make)


@mutant("split-apart")
def _(broken: bool) -> Made:
    return dataset(drawn, lambda order: order[60:80] if broken else order[80:])


def model(make: Callable[[int, int], nn.Module]) -> ModelSpec[Any]:
    class Made_(Model):
        def module(self, shape: DataShape) -> nn.Module:
            if shape.task != "classification":
                raise DataError("it classifies; choose a classification task")
            return nn.Sequential(nn.Flatten(), make(int(torch.tensor(shape.inputs).prod()), shape.classes))

    signature = Signature(gives=(PerExample(),), keeps=ALL)
    return ModelSpec(api=1, name="model", config=Empty, summary="a model", build=lambda c: Made_(), signature=signature)


@mutant("output-shape")
def _(broken: bool) -> Made:
    return model(lambda d, k: nn.Linear(d, 5 if broken else k))


class Unseeded(nn.Linear):
    def reset_parameters(self) -> None:
        generator = torch.Generator().manual_seed(0)
        nn.init.normal_(self.weight, generator=generator)
        nn.init.zeros_(self.bias)


@mutant("weights-seeded")
def _(broken: bool) -> Made:
    return model(lambda d, k: Unseeded(d, k) if broken else nn.Linear(d, k))


@mutant("per-example")
def _(broken: bool) -> Made:
    return model(lambda d, k: nn.Sequential(nn.Linear(d, 8), nn.BatchNorm1d(8) if broken else nn.LayerNorm(8), nn.Linear(8, k)))


class Hidden(nn.Linear):
    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.secret = float(torch.rand(()))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.secret


@mutant("row-round-trip")
def _(broken: bool) -> Made:
    return model(lambda d, k: Hidden(d, k) if broken else nn.Linear(d, k))


def accountant(flaw: str) -> Callable[[bool], Made]:
    """Exact composition of Gaussian releases that ignores sampling."""

    class Exact(Accountant):
        def __init__(self, flawed: bool) -> None:
            self.flaw = flaw if flawed else ""

        def epsilon(self, events: Sequence[tuple[Event, int]], delta: float) -> float:
            precision = 0.0
            for k, (event, count) in enumerate(events):
                assert isinstance(event, GaussianEvent)
                if event.rate > 0 or self.flaw == "nothing":
                    scale = k + 1 if self.flaw == "order" else 1
                    precision += scale * event.steps * max(count, self.flaw == "nothing") / event.noise_multiplier**2
            if not precision:
                return 0.0
            if self.flaw == "monotone":
                precision = 1 / precision
            return gaussian_epsilon(precision**-0.5, delta) * (0.9 if self.flaw == "below" else 1)

    return lambda broken: AccountantSpec(api=1, name="exact", config=Empty, summary="exact", build=lambda c: Exact(broken))


mutant("epsilon-monotone")(accountant("monotone"))
mutant("epsilon-order")(accountant("order"))
mutant("epsilon-of-nothing")(accountant("nothing"))
mutant("epsilon-bounded-below")(accountant("below"))
