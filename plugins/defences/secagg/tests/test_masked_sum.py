"""The opened sum is the plain fixed-point sum, bit for bit; a sealed row says nothing."""

import secrets
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from sparring_secagg.fixed_point import centred, encode, uniform
from sparring_secagg.masked_sum import Open, Seal
from sparring_secagg.plugin import MASKED_SUM, MaskedSumConfig

from sparring.aggregate import WeightedMean, fold
from sparring.checker import walk
from sparring.context import Round, Wire
from sparring.errors import ConfigError, EffectError, NumericalError, RoundAborted
from sparring.facts import Clipped, Fact, Identified, Readable, Space, Summable, Weighted
from sparring.keys import Key
from sparring.layout import Layout
from sparring.layout import Space as LayoutSpace
from sparring.signals import Cohort, Release, Updates
from sparring.signature import Signature, Step
from sparring.sites import Site

ROWS, NAME = "masked-sum/rows", "masked-sum"
LAYOUT = Layout.build([("w", (3, 2), "parameter"), ("b", (2,), "buffer")])


def context(
    lost: Sequence[int] = (), index: int = 0, secure: Callable[[int], bytes] = secrets.token_bytes, cohort: tuple[int, ...] = ()
) -> Round:
    wire = Wire(index, lambda stage, client: stage == ROWS and client in lost)
    return Round(index, 5, Key(7), wire, "masked-sum/update", cohort=cohort, secure=secure)


def updates(n: int, seed: int = 0, weighted: bool = True, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> Updates:
    generator = torch.Generator().manual_seed(seed)
    rows = (torch.randn(n, LAYOUT.size, generator=generator) * scale).to(dtype)
    weights = torch.randint(0, 200, (n,), generator=generator).to(dtype) if weighted else None
    return Updates(rows, LAYOUT, tuple(range(100, 100 + n)), weights)


def no_pads(size: int) -> bytes:
    return bytes(size)


def server(signal: Updates, ctx: Round) -> Release:
    return WeightedMean().server_aggregate(Cohort(signal.rows, signal.layout, signal.ids, signal.weights), ctx)


def run(config: MaskedSumConfig, given_: Updates, ctx: Round) -> Release:
    return Open(config).defence_transform(server(Seal(config).defence_transform(given_, ctx), ctx), ctx)


@st.composite
def rounds(draw: st.DrawFn) -> tuple[MaskedSumConfig, Updates, list[int]]:
    n = draw(st.integers(2, 12))
    config = MaskedSumConfig(
        threshold=draw(st.integers(2, n)),
        bits=draw(st.sampled_from([32, 33, 40, 48])),
        fraction_bits=draw(st.integers(4, 20)),
        bound=draw(st.sampled_from([0.1, 1.0, 4.0, 30.0])),
        rounding=draw(st.sampled_from(["stochastic", "towards-zero"])),
    )
    given_ = updates(n, draw(st.integers(0, 999)), draw(st.booleans()), draw(st.sampled_from([1e-3, 1.0, 50.0])))
    lost = draw(st.lists(st.sampled_from(given_.ids), unique=True, max_size=n))
    return config, given_, lost


@settings(max_examples=120, deadline=None)
@given(rounds())
def test_the_opened_sum_is_the_plain_fixed_point_sum(case: tuple[MaskedSumConfig, Updates, list[int]]) -> None:
    config, given_, lost = case
    arrived = [i for i in given_.ids if i not in lost]
    if len(arrived) < config.threshold:
        with pytest.raises(RoundAborted) as aborted:
            run(config, given_, context(lost))
        assert (aborted.value.layer, aborted.value.had, aborted.value.needed) == (NAME, len(arrived), config.threshold)
        return
    release = run(config, given_, context(lost))
    plain = Seal(config).defence_transform(given_, context(secure=no_pads)).select(arrived).rows
    total = centred(plain, config.modulus).sum(0)
    expected = total[:-1].double() / total[-1].double() if total[-1] else torch.zeros(LAYOUT.size, dtype=torch.float64)
    assert torch.equal(release.vector, expected.float())
    assert (release.layout, release.clients) == (LAYOUT, len(arrived))


@settings(max_examples=40, deadline=None)
@given(rounds())
def test_it_is_the_weighted_mean_of_the_clipped_rows(case: tuple[MaskedSumConfig, Updates, list[int]]) -> None:
    config, given_, _ = case
    n, release = len(given_.ids), run(config, given_, context())
    weights = torch.ones(n, dtype=torch.float64) if given_.weights is None else given_.weights.double()
    unit = 1.0 if given_.weights is None else config.max_weight
    grid = 2.0**-config.fraction_bits
    assert release.total == pytest.approx(float(weights.sum()), abs=n * grid * unit)
    if float(weights.sum()) > 100 * n * grid * unit:
        mean = weights @ given_.rows.double().clamp(-config.bound, config.bound) / weights.sum()
        slack = (1 + 2 * config.bound) * n * grid * unit / float(weights.sum()) + 1e-6 * config.bound
        assert float((release.vector - mean).abs().max()) <= slack


def test_extreme_rows_do_not_wrap_at_full_capacity() -> None:
    config = MaskedSumConfig(bits=16, fraction_bits=8, bound=4.0, max_weight=1.0)
    n = config.capacity
    assert n * config.largest < 2**15 <= (n + 1) * config.largest
    for sign in (1, -1):
        rows = torch.full((n, LAYOUT.size), sign * 1e9)
        release = run(config, Updates(rows, LAYOUT, tuple(range(n)), torch.ones(n)), context())
        assert torch.equal(release.vector, torch.full((LAYOUT.size,), sign * 4.0))
    with pytest.raises(ConfigError, match=f"{n} are safe"):
        run(config, Updates(torch.zeros(n + 1, LAYOUT.size), LAYOUT, tuple(range(n + 1))), context())
    with pytest.raises(ConfigError):
        Seal(config).defence_transform(updates(2, weighted=False), context(cohort=tuple(range(n + 1))))


def test_blocks_of_a_streamed_cohort_open_as_one() -> None:
    config = MaskedSumConfig(threshold=3)
    given_ = updates(10)
    ctx = context([103])
    blocks = [Seal(config).defence_transform(given_.select(ids), ctx) for ids in (given_.ids[:4], given_.ids[4:])]
    release = Open(config).defence_transform(fold(WeightedMean(), blocks, ctx), ctx)
    assert torch.equal(release.vector, run(config, given_, context([103])).vector)


def test_a_sealed_row_is_uniform_and_independent_of_what_it_hides() -> None:
    config, size = MaskedSumConfig(bits=32), 40_000
    layout = Layout.build([("w", (size,), "parameter")])
    low = Updates(torch.zeros(1, size), layout, (1,), torch.ones(1))
    high = Updates(torch.full((1, size), 3.9), layout, (1,), torch.ones(1))
    seal = Seal(config)
    sealed = [seal.defence_transform(row, context()).rows[0] for row in (low, high, low)]
    for y in sealed:
        assert int(y.min()) >= 0
        assert int(y.max()) < config.modulus
        for digits in (y >> 24, y & 255):
            counts = torch.bincount(digits, minlength=256).double()
            assert float(((counts - (size + 1) / 256) ** 2 / ((size + 1) / 256)).sum()) < stats.chi2.ppf(1 - 1e-5, 255)
    assert abs(float(torch.corrcoef(torch.stack([y.double() for y in sealed])).fill_diagonal_(0).abs().max())) < 0.03


def test_every_sealed_row_is_explained_by_exactly_one_pad() -> None:
    seal, given_ = Seal(MaskedSumConfig(bits=32)), updates(2)
    target = torch.randint(1 << 32, (LAYOUT.size + 1,), generator=torch.Generator().manual_seed(1))
    for client in given_.ids:
        one = given_.select([client])
        plain = seal.defence_transform(one, context(secure=no_pads)).rows[0]
        pad = b"".join(int(v).to_bytes(4, "little") for v in (target - plain) % (1 << 32))
        assert torch.equal(seal.defence_transform(one, context(secure=lambda size, pad=pad: pad)).rows[0], target)


def test_pads_are_fresh_in_each_round_and_for_each_client() -> None:
    given_, seal = updates(4), Seal(MaskedSumConfig())
    first, second = (seal.defence_transform(given_, context(index=0)).rows for _ in range(2))
    assert (first != second).all(dim=1).all()
    same = Updates(given_.rows[:1].repeat(4, 1), LAYOUT, given_.ids, torch.ones(4))
    assert len({tuple(row) for row in seal.defence_transform(same, context()).rows.tolist()}) == 4


def test_a_row_depends_on_its_own_client_alone() -> None:
    config = MaskedSumConfig()
    plain = Seal(config).defence_transform(updates(5), context(secure=no_pads))
    one = Seal(config).defence_transform(updates(5).select([103, 101]), context(secure=no_pads))
    assert torch.equal(one.rows, plain.rows[[3, 1]])


def test_sealed_updates_carry_no_weights_and_restore_their_layout() -> None:
    sealed = Seal(MaskedSumConfig()).defence_transform(updates(3), context())
    assert sealed.weights is None
    assert sealed.layout.space == LayoutSpace("sealed", 1 << 32)
    assert sealed.rows.dtype == torch.int64
    assert sealed.rows.shape == (3, LAYOUT.size + 1)
    for dtype in (torch.float32, torch.float64):
        release = run(MaskedSumConfig(), updates(3, dtype=dtype), context())
        assert (release.layout, release.vector.dtype) == (LAYOUT, dtype)


def test_bytes_are_counted() -> None:
    ctx = context([101])
    Seal(MaskedSumConfig(bits=33, fraction_bits=10)).defence_transform(updates(3), ctx)
    each = -(-(LAYOUT.size + 1) * 33 // 8)
    assert ctx.wire.totals() == (2 * each, 3 * each)


def test_all_weights_zero() -> None:
    given_ = Updates(torch.ones(3, LAYOUT.size), LAYOUT, (1, 2, 3), torch.zeros(3))
    release = run(MaskedSumConfig(), given_, context())
    assert not release.vector.any()
    assert release.total == 0


def test_the_dealer_names_a_sum_once_and_only_of_what_was_added() -> None:
    config, ctx = MaskedSumConfig(), context()
    sealed = Seal(config).defence_transform(updates(4), ctx)
    with pytest.raises(EffectError, match="3"):
        Open(config).defence_transform(server(sealed.select(sealed.ids[:3]), ctx), ctx)
    with pytest.raises(RoundAborted):
        Open(config).defence_transform(server(sealed, ctx), ctx)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_rows_that_are_not_finite_name_their_client(value: float) -> None:
    given_ = updates(3)
    given_.rows[1, 2] = value
    with pytest.raises(NumericalError, match="client 101"):
        Seal(MaskedSumConfig()).defence_transform(given_, context())


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="client 100 has weight 2000"):
        Seal(MaskedSumConfig()).defence_transform(Updates(torch.zeros(1, 8), LAYOUT, (100,), torch.tensor([2000.0])), context())
    with pytest.raises(ValidationError, match="overflow"):
        MaskedSumConfig(bits=16, fraction_bits=16)
    with pytest.raises(ValidationError):
        MaskedSumConfig(threshold=1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-8, 8), min_size=1, max_size=50), st.integers(0, 20), st.integers(0, 99))
def test_rounding(values: list[float], bits: int, seed: int) -> None:
    v, generator = torch.tensor(values, dtype=torch.float64), torch.Generator().manual_seed(seed)
    scaled = v * 2.0**bits
    q = encode(v, bits, "stochastic", generator)
    assert ((q == scaled.floor()) | (q == scaled.ceil())).all()
    cut = encode(v, bits, "towards-zero", generator)
    assert (cut.abs() <= scaled.abs()).all()
    assert ((scaled - cut).abs() < 1).all()


def test_stochastic_rounding_is_unbiased() -> None:
    v = torch.full((40_000,), -0.3, dtype=torch.float64)
    q = encode(v, 0, "stochastic", torch.Generator().manual_seed(0)).double()
    assert float(q.mean()) == pytest.approx(-0.3, abs=5 * (0.21 / 40_000) ** 0.5)


@pytest.mark.parametrize("bits", [8, 32, 33, 48])
def test_pads_fill_the_ring(bits: int) -> None:
    drawn = uniform(20_000, 1 << bits, secrets.token_bytes)
    assert int(drawn.min()) >= 0
    assert int(drawn.max()) < 1 << bits
    counts = torch.bincount(drawn >> (bits - 4), minlength=16).double()
    assert float(((counts - 1250) ** 2 / 1250).sum()) < stats.chi2.ppf(1 - 1e-5, 15)
    assert uniform(0, 1 << bits, secrets.token_bytes).shape == (0,)


def stack(config: MaskedSumConfig, *inside: Step) -> list[Step]:
    seal, open_ = (Step(f"{NAME}/{layer.site.label}", layer.site, layer.facts(config)) for layer in MASKED_SUM.layers)
    return [seal, *inside, open_]


START: tuple[Fact, ...] = (
    Summable(), Identified(), Weighted(), Space("real"), Clipped("l2", "client", "honest", 1.0),
    Readable("server", "update", "client"), Readable("server", "update", "cohort"), Readable("aggregator", "update", "client"),
)  # fmt: skip


def test_single_updates_are_hidden_and_the_sum_is_not() -> None:
    mean = Step("mean", Site.AGGREGATE, Signature(needs=(Summable(),), keeps=(Summable(), Weighted(), Space(), Clipped())))
    report = walk(stack(MaskedSumConfig(), mean), START)
    assert report.ok
    assert {f for f in report.facts if isinstance(f, Readable)} == {Readable("server", "update", "cohort")}
    assert Space("real") in report.facts
    assert not any(isinstance(f, Clipped) for f in report.facts)
    cut = walk(stack(MaskedSumConfig(rounding="towards-zero"), mean), START)
    assert Clipped("l2", "client", "honest", 1.0) in cut.facts


def test_rules_that_read_single_rows_do_not_type_check_inside() -> None:
    krum = Step("krum", Site.AGGREGATE, Signature(needs=(Readable("aggregator", "update", "client"), Space("real"))))
    report = walk(stack(MaskedSumConfig(), krum), START)
    assert not report.ok
    assert {str(lost) for m in report.missing for lost, _ in m.lost} >= {"Readable(aggregator, update, client)", "Space(real)"}
