"""Laws of the box of inputs, of mixtures of codes, and of ensembles."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sparring_inversion.adversarial_priors import AdversarialPriors
from sparring_inversion.analytic import Analytic
from sparring_inversion.cards_records import SHAPE, Records, coded, columns, drawn, records
from sparring_inversion.cpl import Cpl
from sparring_inversion.dlg import Dlg
from sparring_inversion.gradinversion import GradInversion
from sparring_inversion.inverting_gradients import InvertingGradients
from sparring_inversion.matching import stacks
from sparring_inversion.plugin import DlgConfig, InvertingGradientsConfig
from sparring_inversion.plugin_analytic import AnalyticConfig
from sparring_inversion.plugin_matching import CplConfig, GradInversionConfig
from sparring_inversion.plugin_priors import AdversarialPriorsConfig
from sparring_inversion.plugin_records import TableakConfig
from sparring_inversion.records import Encoding, box
from sparring_inversion.tableak import Tableak, aligned, certainty, pooled
from torch import Tensor

from sparring.context import Setup
from sparring.keys import Key
from sparring.likeness import nearest_code
from sparring.signals import Column, DataShape, Examples
from sparring.views import Reconstruction, UpdateView

CTX = Setup(Key(0), "attack")
LIKE = torch.zeros(())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


number = st.floats(-100, 100, width=32)


@st.composite
def shapes(draw: st.DrawFn) -> DataShape:
    """Records of up to six columns in any order: numbers, and categories of up to four distinct codes."""
    made: list[Column] = []
    for k in range(draw(st.integers(1, 6))):
        at = sum(c.width for c in made)
        if draw(st.booleans()):
            low, high = sorted((draw(number), draw(number)))
            made.append(Column(f"{k}", at, low=low, high=high, close=0.1))
        else:
            width = draw(st.integers(1, 3))
            codes = draw(st.lists(st.tuples(*[number] * width), min_size=1, max_size=4, unique=True))
            made.append(Column(f"{k}", at, width, tuple(codes)))
    return DataShape((sum(c.width for c in made),), 2, columns=tuple(made))


def tableak(view: UpdateView, **options: Any) -> Reconstruction:
    return Tableak(TableakConfig(**options)).attack_observe(view, CTX)


class TestBox:
    @given(shapes(), st.integers(0, 99))
    def test_every_record_of_mixtures_lies_in_the_box_and_its_edges_are_reached(self, shape: DataShape, seed: int) -> None:
        low, high = box(shape, LIKE)
        encoding = Encoding.of(shape, LIKE)
        z = 20 * torch.randn(50, encoding.size, generator=torch.Generator().manual_seed(seed))
        x, slack = encoding.inputs(encoding.shares(z)), 1e-5 * (low.abs() + high.abs())
        assert bool(((x >= low - slack) & (x <= high + slack)).all())
        for column in shape.columns:
            if not column.codes:
                own = x[:, column.at]
                assert column.low <= float(own.min()) <= float(own.max()) <= column.high
                ends = torch.tensor([-200.0, 200.0])[:, None].expand(2, encoding.size)
                assert encoding.inputs(encoding.shares(ends))[:, column.at].tolist() == [column.low, column.high]

    def test_it_is_the_unit_interval_where_nothing_is_said_of_columns(self) -> None:
        x = torch.randn(3, 2, 5)
        assert x.clamp(*box(DataShape((5,), 2), x)).equal(x.clamp(0, 1))
        images = torch.randn(3, 2, 1, 8, 8)
        assert images.clamp(*box(DataShape((1, 8, 8), 4), images)).equal(images.clamp(0, 1))

    @pytest.mark.parametrize("snapshots", [0, 3])
    def test_what_matches_gradients_stays_in_it_and_uses_it(self, snapshots: int) -> None:
        victim, (low, high) = records(4, 1), box(SHAPE, LIKE)
        for attack in (
            InvertingGradients(InvertingGradientsConfig(iterations=200, restarts=1, snapshots=snapshots)),
            Dlg(DlgConfig(iterations=60, restarts=1, snapshots=snapshots)),
            Cpl(CplConfig(iterations=60, restarts=1, snapshots=snapshots)),
            GradInversion(GradInversionConfig(iterations=200, restarts=1, snapshots=snapshots, statistics="none")),
            Tableak(TableakConfig(iterations=60, restarts=2, snapshots=snapshots)),
        ):
            found = attack.attack_observe(victim.view, CTX)
            assert isinstance(found, Reconstruction)
            kept = [x for frames in found.progress.values() for _, x in frames]
            assert len(kept) == 4 * snapshots
            x = torch.cat([*found.inputs.values(), *kept])
            assert bool(((x >= low) & (x <= high)).all())
            assert float(x.min()) < 0
            assert float(x.max()) > 1
            measures = victim.scored(found)
            assert measures["columns"].baseline is not None
            assert measures["columns"].value > measures["columns"].baseline + 0.4

    def test_means_of_own_records_are_starts_in_it(self) -> None:
        generator = torch.Generator().manual_seed(0)
        own = Examples(drawn(40, generator), torch.arange(40) % 2)
        view = records(3, 1).view
        still = AdversarialPriors(AdversarialPriorsConfig(iterations=1, lr=1e-6, restarts=1))
        found = still.attack_observe(view, replace(CTX, public=own))
        low, high = box(SHAPE, LIKE)
        for capture in view.captures:
            assert capture.labels is not None
            x = found.inputs[capture.round, capture.client]
            away = (x - own.x[own.y == capture.labels].mean(0)) / (high - low)
            assert float(away.abs().max()) < 0.01

    def test_closed_forms_keep_to_it(self) -> None:
        victim = records(4, 1)
        found = Analytic(AnalyticConfig()).attack_observe(victim.view, CTX)
        for key, x in found.inputs.items():
            assert torch.allclose(x, victim.truth.examples[key].x, atol=1e-4)

    @given(shapes(), st.integers(0, 99))
    def test_positions_from_0_to_1_fill_it_and_leave_it_never(self, shape: DataShape, seed: int) -> None:
        (stack,) = stacks(records(1, 1).view, "granted")
        capture = stack.captures[0]
        stack = replace(stack, captures=(replace(capture, plan=replace(capture.plan, shape=shape)),))
        low, high = stack.box
        u = torch.rand(50, *shape.inputs, generator=torch.Generator().manual_seed(seed))
        x = stack.placed(u)
        assert bool(((x >= low) & (x <= high)).all())
        assert stack.placed(torch.zeros_like(u[0])).equal(low)
        assert stack.placed(torch.ones_like(u[0])).equal(high)
        assert stack.inside(x).equal(x)
        assert torch.allclose(stack.placed(stack.positions(x)), x, atol=1e-4)
        images = replace(stack, captures=(replace(capture, plan=replace(capture.plan, shape=DataShape(shape.inputs, 2))),))
        assert images.placed(u).equal(u)
        assert images.positions(u).equal(u)


class TestMixtures:
    @given(shapes(), st.integers(0, 99))
    def test_a_saturated_softmax_is_a_code(self, shape: DataShape, seed: int) -> None:
        encoding = Encoding.of(shape, LIKE)
        generator = torch.Generator().manual_seed(seed)
        z = torch.cat([torch.randperm(encoding.size, generator=generator)[None] * 200.0 for _ in range(5)])
        x = encoding.inputs(encoding.shares(z))
        assert x.equal(encoding.inputs(encoding.hardened(encoding.shares(z))))
        for column in (c for c in shape.columns if c.codes):
            own = x[:, column.at : column.at + column.width]
            assert own.equal(torch.tensor(column.codes)[nearest_code(x, column)])

    @given(shapes(), st.integers(0, 99))
    def test_hardened_categories_are_their_most_probable_code_and_numbers_stay(self, shape: DataShape, seed: int) -> None:
        encoding = Encoding.of(shape, LIKE)
        z = torch.randn(7, encoding.size, generator=torch.Generator().manual_seed(seed))
        u = encoding.shares(z)
        hard = encoding.hardened(u)
        (numbers, soft), (kept, chosen) = encoding.parts(u), encoding.parts(hard)
        assert numbers.equal(kept)
        for p, code in zip(soft, chosen, strict=True):
            assert torch.allclose(p.sum(-1), torch.ones(7))
            assert code.argmax(-1).equal(p.argmax(-1))
            assert code.sum(-1).eq(1).all()

    def test_images_are_numbers(self) -> None:
        encoding = Encoding.of(DataShape((1, 4, 4), 3), LIKE)
        z = torch.randn(2, 3, 16)
        assert encoding.inputs(encoding.shares(z)).equal(z.sigmoid().view(2, 3, 1, 4, 4))

    def test_certainty_is_one_of_a_code_and_none_of_equal_shares(self) -> None:
        p = torch.stack([torch.eye(4)[0], torch.full((4,), 0.25), torch.tensor([0.5, 0.5, 0.0, 0.0])])
        assert certainty(p).tolist() == pytest.approx([1, 0, 0.5], abs=1e-6)


def ensemble(seed: int, starts: int = 5, batch: int = 4) -> tuple[Encoding, Tensor, Tensor, Tensor]:
    """Shares of members that found the same records up to noise, each in an order of its own within labels."""
    generator = torch.Generator().manual_seed(seed)
    encoding = Encoding.of(SHAPE, LIKE)
    labels = torch.randint(2, (1, batch), generator=generator)
    z = 4 * torch.randn(batch, encoding.size, generator=generator)
    members = []
    for _ in range(starts):
        order = torch.arange(batch)
        for label in (0, 1):
            places = torch.nonzero(labels[0] == label)[:, 0]
            order[places] = places[torch.randperm(len(places), generator=generator)]
        members.append(z[order] + 0.05 * torch.randn(z.shape, generator=generator))
    loss = torch.rand(1, starts, generator=generator)
    return encoding, encoding.shares(torch.stack(members)[None]), loss, labels


class TestEnsembles:
    @given(st.integers(0, 99), st.integers(1, 6))
    def test_equal_members_pool_to_that_member(self, seed: int, starts: int) -> None:
        encoding, u, loss, labels = ensemble(seed)
        one = u[:, :1]
        same = pooled(encoding, aligned(encoding, one.expand(-1, starts, -1, -1), loss[:, :1].expand(-1, starts), labels))
        assert torch.allclose(same, one[:, 0], rtol=1e-6, atol=1e-7)
        assert encoding.parts(same)[0].equal(encoding.parts(one[:, 0])[0])
        assert encoding.hardened(same).equal(encoding.hardened(one[:, 0]))

    @given(st.integers(0, 99))
    def test_members_in_other_orders_pool_to_the_records_of_the_best(self, seed: int) -> None:
        encoding, u, loss, labels = ensemble(seed)
        lead = u[:, int(loss.argmin())]
        assert float((pooled(encoding, aligned(encoding, u, loss, labels)) - lead).abs().max()) < 0.1

    @given(st.integers(0, 99))
    def test_the_order_of_starts_changes_nothing(self, seed: int) -> None:
        encoding, u, loss, labels = ensemble(seed)
        order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
        once, again = (
            pooled(encoding, aligned(encoding, *given_, labels)) for given_ in ((u, loss), (u[:, order], loss[:, order]))
        )
        assert once.equal(again)

    @given(st.integers(0, 99))
    def test_records_of_different_labels_never_change_places(self, seed: int) -> None:
        encoding, u, loss, labels = ensemble(seed)
        moved = aligned(encoding, u, loss, labels)
        for label in (0, 1):
            of = labels[0] == label
            for before, after in zip(u[0, :, of], moved[0, :, of], strict=True):
                assert sorted(before.tolist()) == sorted(after.tolist())

    def test_a_start_that_is_no_number_counts_as_the_best_one(self) -> None:
        encoding, u, loss, labels = ensemble(0)
        lead, bad = int(loss.argmin()), int(loss.argmax())
        broken, copied = u.clone(), u.clone()
        broken[:, bad], copied[:, bad] = torch.nan, u[:, lead]
        for value in (torch.nan, 0.0):
            lost = loss.clone()
            lost[:, bad] = value
            found = pooled(encoding, aligned(encoding, broken, lost, labels))
            assert found.equal(pooled(encoding, aligned(encoding, copied, loss, labels)))
        assert bool(aligned(encoding, u * torch.nan, loss, labels).isnan().all())


class TestTableak:
    @pytest.mark.parametrize("batch", [1, 4])
    def test_records_are_told_and_from_noise_they_are_not(self, batch: int) -> None:
        victim = records(4, batch)
        found = tableak(victim.view, iterations=200, restarts=4, snapshots=0)
        measures = victim.scored(found)
        mean = measures["columns"].baseline
        assert mean is not None
        assert measures["columns"].value > mean + 0.4
        assert coded(found) == 1
        noise = victim.drowned()
        drowned = noise.scored(tableak(noise.view, iterations=60, restarts=4, snapshots=0))
        n = 4 * batch * len(columns())
        assert drowned["columns"].value <= mean + 3 * math.sqrt(mean * (1 - mean) / n)

    def test_every_category_is_a_code_and_numbers_lie_in_the_box_before_anything_converged(self) -> None:
        found = tableak(records(3, 3).view, iterations=2, restarts=3)
        low, high = box(SHAPE, LIKE)
        assert coded(found) == 1
        assert all(bool(((x >= low) & (x <= high)).all()) for x in found.inputs.values())

    def test_it_is_surer_of_gradients_than_of_noise_and_one_start_says_nothing(self) -> None:
        victim = records(4, 1)

        def sure(own: Records, **options: int) -> list[str]:
            return [*tableak(own.view, iterations=100, snapshots=0, **options).notes]

        (read,), (drowned,) = sure(victim, restarts=4), sure(victim.drowned(), restarts=4)
        assert percent(read) > percent(drowned) + 10
        assert not sure(victim, restarts=1)

    def test_a_zero_row_gives_pooled_starts_and_loss_one(self) -> None:
        view = records(2, 2).view
        zeroed = [replace(view.captures[0], row=torch.zeros_like(view.captures[0].row)), view.captures[1]]
        found = tableak(replace(view, captures=zeroed), iterations=20, restarts=3)
        whole = tableak(view, iterations=20, restarts=3)
        assert found.loss[0, 0] == 1
        assert found.inputs[0, 0].isfinite().all()
        assert torch.allclose(found.inputs[0, 1], whole.inputs[0, 1], atol=1e-5)

    def test_no_captures_give_nothing(self) -> None:
        view = records(1, 1).view
        assert not tableak(replace(view, captures=[])).inputs
        assert not tableak(replace(view, captures=[replace(view.captures[0], examples=0)])).notes

    def test_cost_counts_gradient_evaluations(self) -> None:
        assert tableak(records(3, 1).view, iterations=5, restarts=4).cost == 3 * (4 * (5 + 1) + 1)

    @settings(max_examples=5, deadline=None)
    @given(st.integers(0, 99))
    def test_the_other_captures_of_a_stack_change_nothing(self, seed: int) -> None:
        view = records(3, 2, seed).view
        whole = tableak(view, iterations=5, restarts=3)
        alone = tableak(replace(view, captures=[view.captures[1]]), iterations=5, restarts=3)
        assert torch.allclose(whole.inputs[0, 1], alone.inputs[0, 1], atol=1e-5)


def percent(note: str) -> int:
    return int(note.split(" %", maxsplit=1)[0].rsplit(maxsplit=1)[-1])


def test_drawn_records_hold_what_their_columns_say() -> None:
    x = drawn(200, torch.Generator().manual_seed(0))
    low, high = box(SHAPE, LIKE)
    assert bool(((x >= low) & (x <= high)).all())
    assert x.shape[1] == SHAPE.inputs[0]
