"""The gradient of the likelihood taken apart, to be looked at and checked."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pymc as pm
import pytensor
import pytensor.tensor as pt
import xarray as xr
from pymc.model.transform.conditioning import remove_value_transforms
from pytensor.graph.basic import Variable
from pytensor.graph.traversal import ancestors

from pm_gplvm.core.checks import Array, checked
from pm_gplvm.data.arrays import finite
from pm_gplvm.data.fit import OBS, Fit
from pm_gplvm.model.compile import compile_mode
from pm_gplvm.model.density import compile_objective, table_log_likelihood
from pm_gplvm.model.spec import ModelSpec

_OTHER = f"{OBS}_other"


@checked
def gradients(
    model: pm.Model, point: Mapping[str, Any] | xr.DataTree, *, explicit: bool = False
) -> xr.Dataset:
    r"""Take the gradient of the log-likelihood apart, by the chain rule through K.

    L(X, θ) = -(DN/2) ln 2π - (D/2) ln|K| - ½ tr(K⁻¹ F Fᵀ), F the standardised table (Lawrence 2005,
    section 3), has

        ∂L/∂K = ½ (K⁻¹ F Fᵀ K⁻¹ - D K⁻¹)                            (N × N),
        ∂L/∂θ = Σᵢⱼ (∂L/∂K)ᵢⱼ (∂K/∂θ)ᵢⱼ = tr((∂L/∂K)ᵀ ∂K/∂θ)          (a number),
        ∂L/∂xₙ_q = 2 Σⱼ (∂L/∂K)ₙⱼ ∂k(xₙ, xⱼ)/∂xₙ_q                   (N × Q).

    The ½ is missing in the printed eq. (10). In the last line the N × N × Q derivatives of the
    kernel in its *first* argument meet row n of ∂L/∂K, and the 2 is for column n, which moves
    with xₙ as row n does.

    Parameters
    ----------
    model : pm.Model
        From :func:`build_model`, or your own with a :class:`GPColumns`.
    point : mapping or DataTree
        A value for each free variable, by name; or a fit, whose last draw is taken.
    explicit : bool, default False
        Whether the derivatives of K are written out, N × N × Q numbers. What is returned without
        them is computed without them.

    Returns
    -------
    Dataset
        ``L`` (); ``K`` and ``dL_dK`` (obs, obs_other); ``dL_dX`` (obs, latent); ``dL_dlengthscale``
        and so on for each free θ, of its shape. With ``explicit`` also ``dK_dX`` (obs, obs_other,
        latent), ∂k(xₙ, xⱼ)/∂xₙ_q, and ``dK_dlengthscale`` (obs, obs_other, ...) and so on. X in its
        own units, θ, K and F in those of the data's scale; L is that of Y itself.

    Raises
    ------
    TypeError, ValueError
        If the point lacks a variable or has a wrong shape, or the table's mean and scale are no
        data.

    Notes
    -----
    These are gradients of the likelihood alone; :func:`model.compile_objective` adds the priors'.

    References
    ----------
    Lawrence, N. D. (2005). Probabilistic non-linear principal component analysis with Gaussian
    process latent variable models. JMLR 6, 1783-1816.

    Examples
    --------
    >>> import numpy as np, pm_gplvm as gplvm
    >>> model = gplvm.build_model(gplvm.data.load_digits(n=20))
    >>> X = np.random.default_rng(1).normal(size=(20, 2))
    >>> point = {"X": X, "lengthscale": 1.0, "amplitude": 1.0, "sigma": 0.3}
    >>> parts = gplvm.model.gradients(model, point, explicit=True)
    >>> parts["dK_dX"].dims
    ('obs', 'obs_other', 'latent')
    >>> by_hand = 2 * (parts["dL_dK"] * parts["dK_dX"]).sum("obs_other")
    >>> bool(np.allclose(by_hand, parts["dL_dX"]))
    True
    """
    spec = ModelSpec.of(model)
    plain = remove_value_transforms(model)
    graph, at = _Graph(plain), _point(spec, plain, point)
    value, slopes = compile_objective(model, prior=False)(at)
    values = [np.asarray(at[value.name], dtype=np.float64) for value in plain.value_vars]
    K, G = graph.compiled([graph.K, graph.dL_dK])(*values)
    parts: dict[str, Any] = {
        "L": ((), value),
        "K": ((OBS, _OTHER), K),
        "dL_dK": ((OBS, _OTHER), G),
    }
    names = [rv.name for rv in model.free_RVs]
    dims = {name: _dims(plain, name, slopes[name]) for name in names}
    parts |= {f"dL_d{name}": (dims[name], slopes[name]) for name in names}
    if explicit:
        tensors = _kernel_slopes(graph, values, len(K))
        for name in (name for name in names if name in tensors):
            own = dims[name][1:] if name == "X" else dims[name]
            parts[f"dK_d{name}"] = ((OBS, _OTHER, *own), tensors[name])
    dataset = xr.Dataset(parts)
    return dataset.assign_coords(
        {name: labels for name, labels in _labels(plain, len(K)).items() if name in dataset.dims}
    )


class _Graph:
    """K and its derivatives as expressions of a model's untransformed variables."""

    def __init__(self, model: pm.Model) -> None:
        table = ModelSpec.of(model).table
        if not table.standardisable:
            raise ValueError(
                "gradients needs the mean and scale of the table to be data, got random variables."
            )
        parts = [table_log_likelihood(table), table.cov]
        likelihood, self.K = model.replace_rvs_by_values(parts)
        self.dL_dK = pt.grad(likelihood, self.K)
        self.values = {value.name: value for value in model.value_vars}

    def compiled(self, outputs: list[Variable], *more: Variable) -> Callable[..., Any]:
        function = pytensor.function(
            [*self.values.values(), *more], outputs, on_unused_input="ignore", mode=compile_mode()
        )
        return lambda *inputs: [np.array(output) for output in function(*inputs)]


def _kernel_slopes(graph: _Graph, values: list[Array], N: int) -> dict[str, Array]:
    """∂k(xₙ, xⱼ)/∂xₙ (N, N, Q) and ∂K/∂θ (N, N, ...).

    For weights V reverse mode gives S(V) = Σᵢⱼ Vᵢⱼ ∂Kᵢⱼ/∂(X, θ), linear in V: ∂K/∂θ is ∂S/∂V.
    """
    V = pt.matrix("V", dtype="float64")
    involved = set(ancestors([graph.K]))
    names = [name for name, value in graph.values.items() if value in involved]
    sums = pt.grad(None, wrt=[graph.values[name] for name in names], known_grads={graph.K: V})
    shapes = dict(zip(graph.values, map(np.shape, values), strict=True))
    slopes = {}
    for name, total in zip(names, sums, strict=True):
        if name == "X":
            slopes[name] = _first_argument(graph.compiled([total], V), values, N)
        else:
            each = [pt.grad(total[index], V) for index in np.ndindex(shapes[name])]
            matrices = graph.compiled(each, V)(*values, np.zeros((N, N)))
            slopes[name] = np.stack(matrices, axis=-1).reshape(N, N, *shapes[name])
    return slopes


def _first_argument(sums: Callable[..., Any], values: list[Array], N: int) -> Array:
    """∂k(xₙ, xⱼ)/∂xₙ from the sums over the entries of K that some weights choose."""
    # Of column j only entry n changes with xₙ, n other than j.
    columns = []
    for j in range(N):
        V = np.zeros((N, N))
        V[:, j] = 1.0
        columns.append(sums(*values, V)[0])
    tensor = np.stack(columns, axis=1)
    # On the diagonal both arguments are xₙ, and k is symmetric in them.
    tensor[np.arange(N), np.arange(N)] = 0.5 * sums(*values, np.eye(N))[0]
    return tensor


def _point(
    spec: ModelSpec, plain: pm.Model, point: Mapping[str, Any] | xr.DataTree
) -> dict[str, Any]:
    """Finite values by name; of a fit those of its last draw, in the order of the table's rows."""
    if isinstance(point, Mapping) and not isinstance(point, xr.DataTree):
        return {name: finite(f"point[{name!r}]", value) for name, value in point.items()}
    names = [rv.name for rv in plain.free_RVs]
    read = Fit.of(point, *names, caller="gradients")
    return dict(spec.last_draw(read, names, "point"))


def _labels(plain: pm.Model, N: int) -> dict[str, Any]:
    """Names of the rows, twice, and of what else the variables' dimensions are."""
    coords = {str(dim): np.asarray(c) for dim, c in plain.coords.items() if c is not None}
    rows = coords.get(OBS, np.arange(N))
    used = {dim for dims in plain.named_vars_to_dims.values() for dim in dims}
    return {OBS: rows, _OTHER: rows, **{dim: c for dim, c in coords.items() if dim in used}}


def _dims(plain: pm.Model, name: str, value: Any) -> tuple[str, ...]:
    """Dimensions of a variable, by numbers where the model does not name them."""
    known = plain.named_vars_to_dims.get(name)
    return known or tuple(f"{name}_dim_{i}" for i in range(np.ndim(value)))
