"""What the reference cards measure: closed forms on a few numbers, and small controls."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from sparring.claims import GaussianEvent
from sparring.facts import Clipped
from sparring.local import Batch, Client, LocalContext, LocalPlan
from sparring.roles import StackRef, Task
from sparring.signals import Broadcast, ClientData, Cohort, DataShape, Examples, ModelPlan, Release, Responses, State, Updates
from sparring.testing.fixtures import Tiny, make_layout, make_round, make_setup, make_updates, tiny_data, tiny_plan, tiny_victim
from sparring.testing.stage import make_work, start
from sparring.train import Sequential
from sparring.views import QueryView
from sparring_frozen_api1 import attacks, local, machinery, once, pads, plugin, server, updates, world
from sparring_frozen_api1.facts import OnGrid

CLIENT = Client(3, 200, 20, 30)


def _cohort(rows: torch.Tensor) -> Cohort:
    ids = tuple(range(len(rows)))
    return Cohort(rows, make_layout(rows.shape[1]), ids, torch.ones(len(rows)), sources=ids)


def frozen_tempered() -> Mapping[str, float]:
    plan = once.Tempered(plugin.TemperedConfig(hold_biases=True)).defence_transform(tiny_plan(), make_setup())
    return {
        "Tanh modules": sum(isinstance(child, nn.Tanh) for child in plan.factory().modules()),
        "frozen parameters": len(plan.frozen),
    }


def frozen_labels() -> Mapping[str, float]:
    data = ClientData({1: Examples(torch.zeros(100_000, 1), torch.zeros(100_000, dtype=torch.long))}, DataShape((1,), 4))
    after = once.RandomisedLabels(plugin.LabelsConfig(p=0.2)).defence_transform(data, make_setup())
    return {"share of labels that changed": float((after.clients[1].y != 0).double().mean())}


def frozen_smoothing() -> Mapping[str, float]:
    x = torch.zeros(1, 20_000)
    asked = Responses(x.square(), x, "user", lambda inputs: inputs.square())
    config = plugin.SmoothingConfig(sigma=0.5, draws=8)
    return {"mean answer of a square at 0": float(once.Smoothing(config).defence_transform(asked, make_setup()).outputs.mean())}


def frozen_watch() -> Mapping[str, float]:
    plain = Broadcast(tiny_plan(), torch.zeros(4), make_layout(4))
    sent = replace(plain, overrides={3: replace(plain, row=torch.ones(4)), 4: replace(plain, row=torch.zeros(4))})
    return {"clients that refuse": len(server.Watch().defence_transform(sent, make_round()).refused)}


def frozen_steps() -> Mapping[str, float]:
    plan = local.Lots().defence_transform(LocalPlan(), make_setup())
    g = torch.Generator().manual_seed(0)
    lots = [len(lot) for lot in plan.sampler.batches(replace(CLIENT, steps=2000), g)]
    config = plugin.StepsConfig(noise=0.5, smoothing=0.2, radius=2.0)
    for layer in (local.Jitter(config), local.SmoothTargets(config), local.Project(config)):
        plan = layer.defence_transform(plan, make_setup())
    batch = plan.batch[0][1](Batch(torch.zeros(1, 50_000), torch.zeros(1)), LocalContext(CLIENT, 0, 0, g))
    uniform = plan.loss(lambda x: torch.zeros(len(x), 4), Batch(torch.zeros(1, 3), torch.zeros(1, dtype=torch.long)))
    return {
        "mean size of a lot": sum(lots) / len(lots),
        "deviation of the inputs": float(batch.x.std()),
        "loss of a uniform prediction": float(uniform),
        "norm after a step": float(plan.step[0][1](torch.full((9,), 7.0), LocalContext(CLIENT, 0, 0, g)).norm()),
    }


def frozen_sgd() -> Mapping[str, float]:
    rule = local.NoisySum(bound=2.0, sigma=3.0)
    numbers = {name: torch.tensor(value) for name, value in rule.numbers(CLIENT).items()}
    batch = Batch(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), torch.zeros(2))
    made = rule.grads(lambda p, x, y: (x * p["w"]).sum(1), {"w": torch.zeros(2)}, batch, numbers)
    noise = rule.noise(100_000, rule.numbers(CLIENT), torch.Generator().manual_seed(0))
    return {"norm of the clipped sum over 20": float(made["w"].norm()), "deviation of the noise": float(noise.std())}


def frozen_round() -> Mapping[str, float]:
    layer = updates.Rounding(plugin.RoundConfig(step=1.0))
    ones = Updates(torch.full((1, 3), 0.4), make_layout(3), ids=(5,))
    sent = [layer.defence_transform(ones, make_round(index=k)).rows for k in range(10)]
    return {"sum of ten updates of .4": float(torch.cat(sent)[:, 0].sum())}


def frozen_clip() -> Mapping[str, float]:
    rows = Updates(torch.tensor([[3.0, 4.0], [0.3, 0.4]]), make_layout(2), ids=(5, 7))
    norms = updates.Clip(plugin.ClipConfig(bound=2.0)).defence_transform(rows, make_round()).rows.norm(dim=1)
    return {"norm of (3, 4)": float(norms[0]), "norm of (.3, .4)": float(norms[1])}


def frozen_noise() -> Mapping[str, float]:
    rows = Updates(torch.zeros(1, 100_000), make_layout(100_000), ids=(5,))
    ctx = make_round("noise", (Clipped("l2", "client", "all", 3.0),))
    return {"deviation": float(updates.Noise(plugin.NoiseConfig(sigma=0.5)).defence_transform(rows, ctx).rows.std())}


def frozen_pads() -> Mapping[str, float]:
    layout, ids = make_layout(4), (1, 2, 3)
    plain = Updates(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, -1.0, 0]]), layout, ids, torch.tensor([1.0, 2.0, 1.0]))
    ctx = make_round("pads", (Clipped("linf", "client", "all", 1.0),), cohort=ids)
    sealed = pads.Seal(plugin.PadsConfig()).defence_transform(plain, ctx)
    summed = Release(sealed.rows.sum(0) % pads.MODULUS, sealed.layout, 3.0, 3)
    opened = pads.Open(plugin.PadsConfig()).defence_transform(summed, ctx)
    return {"largest error": float((opened.vector - torch.tensor([0.25, 0.5, -0.25, 0])).abs().max()), "total": opened.total}


def frozen_twins() -> Mapping[str, float]:
    rows = torch.tensor([[0.5, 0.0], [0.5, 0.5], [0.5, 0.0], [0.5, 0.0]])
    kept = server.Twins().defence_transform(_cohort(rows), make_round("twins", (OnGrid("nearest", "all", 0.5),)))
    return {"rows kept": len(kept), "sum of their clients": sum(kept.ids or ())}


def frozen_buckets() -> Mapping[str, float]:
    rows = torch.randn(1000, 200, generator=torch.Generator().manual_seed(0))
    mixed = server.Buckets(plugin.BucketsConfig(size=4)).defence_transform(_cohort(rows), make_round())
    return {"rows": len(mixed), "variance": float(mixed.rows.var())}


def frozen_sparse() -> Mapping[str, float]:
    released = Release(torch.arange(1.0, 101.0), make_layout(100))
    params = server.Sparse(plugin.SparseConfig(keep=0.1)).defence_transform(released, make_round()).params
    return {"numbers left": float((params != 0).sum()), "least of them": float(params[params != 0].min())}


def frozen_median() -> Mapping[str, float]:
    rows = torch.tensor([[0.0], [1.0], [2.0], [3.0], [1e6]], dtype=torch.float64)
    release = server.GeometricMedian(plugin.MedianConfig(f=1, steps=1000)).server_aggregate(_cohort(rows), make_round())
    return {"median of 0, 1, 2, 3 and 1e6": float(release.vector)}


def frozen_mean() -> Mapping[str, float]:
    rows = Updates(torch.tensor([[1.0], [2.0], [4.0]]), make_layout(1), (1, 2, 3), torch.tensor([1.0, 2.0, 1.0]))
    rule = server.ExactMean()
    parts = [rule.add(rule.init(part), part) for part in (rows.select([1]), rows.select([3, 2]))]
    release = rule.finish(rule.merge(*parts), make_round())
    return {"mean of 1, 2, 4 weighted 1, 2, 1": float(release.vector), "total": release.total}


def frozen_push() -> Mapping[str, float]:
    mine = make_updates(2, 8)
    benign = torch.ones(4, 8)
    ctx = replace(make_round(), benign=benign, aggregate=lambda cohort: Release(cohort.rows.mean(0), cohort.layout))
    sent = attacks.Push(plugin.PushConfig(factors=(0.5, 3.0))).attack_transform(mine, ctx)
    return {"mean of what is sent": float(sent.rows.mean())}


def frozen_flip() -> Mapping[str, float]:
    data = tiny_data()
    after = attacks.FlipLabels().attack_transform(data, make_setup())
    sums = [e.y + data.clients[i].y for i, e in after.clients.items()]
    return {"least sum of two labels": float(torch.cat(sums).min()), "largest": float(torch.cat(sums).max())}


def frozen_ascent() -> Mapping[str, float]:
    data = tiny_data()
    honest, lying = LocalPlan(), attacks.Ascent().attack_transform(LocalPlan(), make_setup())
    work = make_work({"honest": honest, "lying": lying}, data)
    rows = [Sequential(work).train(start(work), list(data), group, 0).flatten() for group in ("honest", "lying")]
    return {"cosine of honest and lying updates": float(torch.cosine_similarity(rows[0], rows[1], 0))}


def frozen_trap() -> Mapping[str, float]:
    module = Tiny()
    plan = ModelPlan(Tiny, DataShape((1, 8, 8), 4))
    layout = make_work({}).layout
    sent = Broadcast(plan, layout.row(module), layout)
    after = attacks.Trap(plugin.TrapConfig(shift=2.0, targets=2)).attack_transform(sent, make_round())
    moved = [float((own.row - sent.row).sum()) for own in after.overrides.values()]
    return {"clients that are sent another model": len(moved), "shift of each, summed": moved[0] if moved else 0.0}


def frozen_analytic() -> Mapping[str, float]:
    victim = tiny_victim(labels=False)
    found = attacks.Analytic().attack_observe(victim.view, make_setup())
    keys = [(capture.round, capture.client) for capture in victim.view]
    inputs, labels = ({}, {}) if found is None else (vars(found)["inputs"], vars(found)["labels"])
    error = max(float((inputs[key][0] - image).abs().max()) for key, image in zip(keys, victim.images, strict=True))
    return {"largest error of a pixel": error, "labels found": sum(int(labels[key]) == k for k, key in enumerate(keys))}


def frozen_confidence() -> Mapping[str, float]:
    logits = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    view = QueryView(DataShape((2,), 2), LocalPlan().loss, lambda x: x, None, logits, torch.tensor([0, 0]))
    found = attacks.Confidence().attack_observe(view, make_setup())
    scores = torch.zeros(2) if found is None else vars(found)["scores"]
    return {"score of a coin": float(scores[0]), "score of odds e^2": float(scores[1])}


def frozen_adagrad() -> Mapping[str, float]:
    work = make_work({"honest": LocalPlan()})
    trainer = world.FedAdagrad(plugin.AdagradConfig(lr=1.0, tau=1.0))
    state = State(work.plan, start(work).row, work.layout)
    step = torch.full_like(state.row, 3.0)
    moved = trainer.apply(state, Release(step, work.layout)).row - state.row
    rows = trainer.client_update(Task(start(work), tuple(work.data), "honest", work, Sequential(work)), make_round())
    return {"first step of a release of 3": float(moved[0]), "rows": len(rows.ids)}


def frozen_quadrants() -> Mapping[str, float]:
    data = world.Quadrants(plugin.QuadrantsConfig(examples=1000)).load(make_setup())
    x = data.train.x[data.train.y == 0][:, 0]
    public = 0 if data.public is None else len(data.public)
    return {"public images": public, "contrast": float(x[:, :4, :4].mean() - x[:, 4:, 4:].mean())}


def frozen_net() -> Mapping[str, float]:
    with torch.random.fork_rng(devices=[]):
        module = world.Net(plugin.NetConfig(hidden=10)).module(DataShape((1, 8, 8), 4))
    return {"parameters": sum(p.numel() for p in module.parameters())}


def frozen_zcdp() -> Mapping[str, float]:
    events = [(GaussianEvent(2.0, "client"), 5), (GaussianEvent(1.0, "client", rate=0.0), 9)]
    return {"epsilon": machinery.ZCDP().epsilon(events, math.exp(-10))}


def frozen_enclave() -> Mapping[str, float]:
    stack: StackRef = (("frozen-buckets", "", {"size": 2}), ("frozen-mean", "", {}))
    forward = machinery.Enclave().open(stack, make_setup())
    release = forward(_cohort(torch.tensor([[1.0], [2.0], [3.0], [6.0]])), make_round())
    return {"mean of 1, 2, 3, 6": float(release.vector), "rows behind it": release.clients}


def frozen_turns() -> Mapping[str, float]:
    work = make_work({"honest": LocalPlan()})
    with_turns, plain = machinery.Turns().strategy(work, make_setup()), Sequential(work)
    rows = [s.train(start(work), list(work.data), "honest", 0) for s in (with_turns, plain)]
    return {"largest difference from sequential": float((rows[0] - rows[1]).abs().max())}
