"""Positive parameters by themselves, with their priors, for fits that hold no ``pm.Model`` of X: the kernel's θ."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
from pymc.distributions.transforms import LogTransform

from pm_gplvm.core.checks import Array
from pm_gplvm.core.composite import FACTOR, TERM, Composite
from pm_gplvm.core.kernels import Kernel, composite_of, kernel_named
from pm_gplvm.data.fit import LATENT
from pm_gplvm.data.inputs import Inputs
from pm_gplvm.model.compile import compile_mode
from pm_gplvm.model.priors import DEFAULT_PRIORS, add_prior, distribution_text


@dataclass(frozen=True)
class Axes:
    """Axes of a kernel's parameters: which has which, and the labels of each axis."""

    of: dict[str, str]
    coords: dict[str, Any]

    @classmethod
    def of_kernel(
        cls,
        entry: Kernel | Composite,
        latent_dim: int,
        *,
        ard: bool,
        inputs: Inputs | None = None,
    ) -> "Axes":
        """Choose them; ``ard``: a lengthscale for each latent dimension, of each factor.

        ``inputs`` have terms of their own behind those of a kernel of several factors, and are named as they are.
        """
        if isinstance(entry, Composite):
            labels = entry.labels(latent_dim, ard=ard)
            for each in inputs.each if inputs is not None else ():
                own = ("amplitude", "lengthscale")[: 1 + (each.classes is None)]
                for name, axis in zip(own, (TERM, FACTOR), strict=False):
                    labels[name] = (axis, [*labels.get(name, (axis, []))[1], each.name])
            of = {name: axis for name, (axis, _) in labels.items()}
            return cls(of, dict(labels.values()))
        of = {"lengthscale": LATENT} if ard and "lengthscale" in entry.parameters else {}
        return cls(of, {LATENT: np.arange(latent_dim)} if of else {})

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a parameter."""
        return (len(self.coords[self.of[name]]),) if name in self.of else ()

    def dims(self, name: str) -> tuple[str, ...]:
        """Dims of a parameter."""
        return (self.of[name],) if name in self.of else ()


class PositivePriors:
    """Priors of positive parameters that depend on no others, and those parameters that are held fixed.

    ``dims`` tells the parameters: () of a number, (latent,) of one for each dimension. ``priors`` has one for each,
    ``coords`` the labels of axes other than the latent one.
    """

    def __init__(
        self,
        priors: Mapping[str, Any],
        dims: Mapping[str, tuple[str, ...]],
        latent_dim: int,
        coords: Mapping[str, Any] | None = None,
    ) -> None:
        self.dims = dict(dims)
        self.coords = {LATENT: np.arange(latent_dim), **(coords or {})}
        self.shapes = {
            name: tuple(len(self.coords[dim]) for dim in of) for name, of in self.dims.items()
        }
        shapes = self.shapes
        with pm.Model(coords=self.coords) as model:
            for name, shape in shapes.items():
                add_prior(name, priors[name], dims=self.dims[name], shape=shape, positive=True)
        self.fixed = {
            name: np.asarray(model[name].get_value())
            for name in shapes
            if model[name] not in model.free_RVs
        }
        self.free = {name: shapes[name] for name in shapes if name not in self.fixed}
        for name in self.free:
            if not isinstance(model.rvs_to_transforms[model[name]], LogTransform):
                raise ValueError(
                    f"priors[{name!r}] must be one on all positive numbers, such as pm.HalfNormal.dist(1), got "
                    f"{distribution_text(model[name])}."
                )
        self.texts = {name: distribution_text(model[name]) for name in self.free}
        self._compiled = _compiled(model) if self.free else None

    def log_density(self, log_theta: Mapping[str, Array]) -> tuple[float, dict[str, Array]]:
        """Sum of the priors' log densities at θ, and its gradient in ln θ."""
        if self._compiled is None:
            return 0.0, {}
        value, *gradient = self._compiled(*(log_theta[name] for name in self.free))
        return float(value), dict(zip(self.free, gradient, strict=True))


class ThetaPrior(PositivePriors):
    """Priors of the kernel's parameters: ``priors`` as in :func:`build_model`; with ``ard`` the lengthscale is (Q,)."""

    def __init__(
        self,
        kernel: Kernel | Composite,
        bias: bool,
        latent_dim: int,
        priors: Mapping[str, Any] | None,
        *,
        ard: bool,
        inputs: Inputs | None = None,
    ) -> None:
        names = (*kernel.parameters, *(("bias",) if bias else ()))
        unknown = [name for name in priors or {} if name not in names]
        if unknown:
            raise ValueError(
                f"priors must name parameters of this kernel ({', '.join(names) or 'it has none'}), got "
                f"{', '.join(map(str, unknown))}."
            )
        of_X = kernel
        if inputs is not None:
            of_X = composite_of(kernel_named(inputs.kernel_of_X(kernel.name, latent_dim)))
        axes = Axes.of_kernel(of_X, latent_dim, ard=ard, inputs=inputs)
        dims = {name: axes.dims(name) for name in names}
        chosen = {name: (priors or {}).get(name, DEFAULT_PRIORS[name]()) for name in names}
        super().__init__(chosen, dims, latent_dim, axes.coords)


def _compiled(model: pm.Model) -> Any:
    total = pt.as_tensor(model.logp(jacobian=False))
    gradient = pt.grad(total, model.value_vars, disconnected_inputs="ignore")
    return pytensor.function(
        model.value_vars, [total, *gradient], on_unused_input="ignore", mode=compile_mode()
    )
