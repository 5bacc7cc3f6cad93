"""Options of the techniques in `plugin_models`."""

from __future__ import annotations

from pydantic import Field

from sparring.specs import Config


class FlameConfig(Config):
    """Configuration of `flame`."""

    noise: float = Field(
        0.001, ge=1e-6, le=10, description="lambda: standard deviation of the noise on the release over the median norm S"
    )


class CRFLConfig(Config):
    """Configuration of `crfl`."""

    bound: float = Field(2.0, ge=1e-3, le=1e6, description="largest L2 norm of the global model before the first round")
    growth: float = Field(
        0.1, ge=0, le=1e6, description="what each round adds: rho_t = bound + growth t after round t = 1, 2, ..."
    )
    noise: float = Field(0.01, ge=1e-6, le=1e3, description="sigma: standard deviation of the noise on each parameter")

    def rho(self, t: int) -> float:
        """The bound after round t = 1, 2, ..."""
        return self.bound + self.growth * t


class FLDetectorConfig(Config):
    """Configuration of `fldetector`."""

    window: int = Field(10, ge=1, le=1000, description="N: rounds over which distances are averaged, and pairs of L-BFGS")
    start: int = Field(10, ge=0, le=1_000_000, description="rounds before the first in which a client is left out")
    references: int = Field(20, ge=2, le=1000, description="B: uniform samples of the gap statistic")


class DeepSightConfig(Config):
    """Configuration of `deepsight`; each client's model answers three times ``samples`` inputs in a round."""

    tau: float = Field(1 / 3, ge=1e-6, le=1, description="share of suspects from which on a cluster is left out")
    min_cluster: int = Field(5, ge=2, le=10_000, description="fewest clients that form a cluster, in each clustering")
    samples: int = Field(1000, ge=1, le=20_000, description="M: random inputs of each of three draws; the paper's is 20,000")


class RFLBATConfig(Config):
    """Configuration of `rflbat`."""

    components: int = Field(2, ge=1, le=100, description="principal components of the updates")
    clusters: int = Field(10, ge=1, le=100, description="most clusters that the gap statistic considers")
    references: int = Field(20, ge=2, le=1000, description="uniform samples of the gap statistic; the published code's are 5")
    outer: float = Field(
        10.0,
        ge=1,
        le=1e6,
        description="epsilon_1: sum of distances over the cohort's median one, beyond which a client is out",
    )
    inner: float = Field(4.0, ge=1, le=1e6, description="epsilon_2: the same within the cluster that is kept")
