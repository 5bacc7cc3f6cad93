"""The lab: training beside the run, for whoever may train: analysts at the server, and attacks that know the recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sparring.groups import HONEST
from sparring.keys import Key
from sparring.layout import Layout
from sparring.local import LocalPlan
from sparring.signals import Broadcast, ClientData, Examples, ModelPlan
from sparring.strategies import Work
from sparring.train import Learner
from sparring.views import LocalSettings


@dataclass(frozen=True)
class Lab:
    """Trains the run's model on given examples with the federation's optimiser, without its defences.

    ``name``: whose lab it is; the streams of batches and of initial weights are named by it.
    """

    plan: ModelPlan
    layout: Layout
    settings: LocalSettings
    key: Key
    device: torch.device
    dtype: torch.dtype
    name: str = ""

    def called(self, name: str) -> Lab:
        """The lab of the layer ``name``."""
        return replace(self, name=name)

    def update(self, row: Tensor, examples: Examples, round_: int = 0) -> Tensor:
        """What a client with ``examples`` would send in answer to ``row`` [d]: one round of local training, [d]."""
        return self._train(row, examples, self.settings, round_)

    def train(self, examples: Examples, epochs: int, seed: int = 0) -> nn.Module:
        """A model trained from fresh initial weights on ``examples`` for ``epochs``, in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.key.child("lab", self.name, seed).number())
            module = self.plan.factory().to(self.device, self.dtype)
        row = self.layout.row(module)
        settings = replace(
            self.settings, algorithm="fedavg", epochs=epochs, steps=None, batch_size=self.settings.batch_size or 32
        )
        return self.model(row + self._train(row, examples, settings, seed))

    def model(self, row: Tensor) -> nn.Module:
        """The model whose parameters and buffers are ``row`` [d], in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            module = self.plan.factory().to(self.device, self.dtype)
        self.layout.load(module, row)
        return module.eval()

    def _train(self, row: Tensor, examples: Examples, settings: LocalSettings, index: int) -> Tensor:
        data = ClientData({0: examples}, self.plan.shape)
        plans = {HONEST: LocalPlan()}
        work = Work(self.plan, self.layout, data, plans, settings, self.key.child("lab", self.name), self.device, self.dtype)
        out = torch.zeros_like(row)
        with torch.enable_grad(), torch.random.fork_rng(devices=[row.device] if row.is_cuda else []):
            Learner(work, channels_last=True).train(Broadcast(self.plan, row, self.layout), 0, HONEST, index, out)
        return out
