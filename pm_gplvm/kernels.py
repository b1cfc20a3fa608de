"""Kernels put together from factors over chosen latent dimensions, for ``build_model(Y, kernel=...)``.

Their + is a sum, of which each term has an amplitude; their * a product of factors. ``str()`` of what comes out is the
text that stands in a fit, and that :func:`build_model` takes as well:

>>> from pm_gplvm import kernels
>>> str(kernels.rbf(dims=[0, 1]) + kernels.periodic(dims=2) + kernels.bias())
'rbf[0,1] + periodic[2] + bias'

"""

from collections.abc import Sequence

from pm_gplvm.core.composite import KernelText, factor_text

__all__ = [
    "bias",
    "cauchy",
    "linear",
    "matern12",
    "matern32",
    "matern52",
    "periodic",
    "rational_quadratic",
    "rbf",
]

Dims = int | Sequence[int] | None


def rbf(dims: Dims = None) -> KernelText:
    """exp(-r²/2): smooth functions.

    Parameters
    ----------
    dims : int or sequence of int, optional
        The latent dimensions, from 0 on, of which r² = Σ (x_q - x'_q)² / lengthscale² is the sum; all by default.

    Returns
    -------
    KernelText
        Its + and * join it with others.

    Examples
    --------
    >>> import pm_gplvm as gplvm
    >>> kernel = gplvm.kernels.rbf(dims=0) + gplvm.kernels.rbf(dims=1)
    >>> Y = gplvm.data.load_digits(n=20)
    >>> model = gplvm.build_model(Y, kernel=kernel)
    >>> model.coords["kernel_factor"]
    ('rbf[0]', 'rbf[1]')
    """
    return factor_text("rbf", dims)


def matern12(dims: Dims = None) -> KernelText:
    """exp(-r): functions that are continuous but have no slope anywhere, such as a random walk that returns.

    :func:`fit_marginal` needs slopes, and refuses it.

    Parameters
    ----------
    dims : int or sequence of int, optional
        As in :func:`rbf`.

    Returns
    -------
    KernelText

    Examples
    --------
    >>> str(matern12(dims=0))
    'matern12[0]'
    """
    return factor_text("matern12", dims)


def matern32(dims: Dims = None) -> KernelText:
    """(1 + √3 r) exp(-√3 r): functions with one derivative.

    Parameters
    ----------
    dims : int or sequence of int, optional
        As in :func:`rbf`.

    Returns
    -------
    KernelText

    Examples
    --------
    >>> str(matern32(dims=0) * rbf(dims=1))
    'matern32[0] * rbf[1]'
    """
    return factor_text("matern32", dims)


def matern52(dims: Dims = None) -> KernelText:
    """(1 + √5 r + 5r²/3) exp(-√5 r): functions with two derivatives.

    Parameters
    ----------
    dims : int or sequence of int, optional
        As in :func:`rbf`.

    Returns
    -------
    KernelText

    Examples
    --------
    >>> str(matern52())
    'matern52'
    """
    return factor_text("matern52", dims)


def cauchy(dims: Dims = None) -> KernelText:
    """1 / (1 + r²/2): a rational quadratic with alpha = 1.

    Parameters
    ----------
    dims : int or sequence of int, optional
        As in :func:`rbf`.

    Returns
    -------
    KernelText

    Examples
    --------
    >>> str(cauchy(dims=1))
    'cauchy[1]'
    """
    return factor_text("cauchy", dims)


def rational_quadratic(dims: Dims = None) -> KernelText:
    """(1 + r² / (2 alpha))^-alpha: functions that vary over lengths of many sizes.

    A mixture of rbf kernels of which 1 / lengthscale² has a gamma distribution (Rasmussen & Williams 2006, eq.
    4.19); alpha, of the prior LogNormal(0, 1), is learned. Large, it is the rbf.

    Parameters
    ----------
    dims : int or sequence of int, optional
        As in :func:`rbf`.

    Returns
    -------
    KernelText

    References
    ----------
    Rasmussen, C. E. and Williams, C. K. I. (2006). Gaussian Processes for Machine Learning. MIT Press.

    Examples
    --------
    >>> str(rational_quadratic())
    'rational_quadratic'
    """
    return factor_text("rational_quadratic", dims)


def periodic(dims: Dims = None) -> KernelText:
    """exp(-2 Σ sin²((x_q - x'_q) / 2) / lengthscale²): of latent dimensions that are angles.

    The period is 2π in X (MacKay 1998). Positions that differ by it are the same place.

    Parameters
    ----------
    dims : int or sequence of int, optional
        The latent dimensions that are angles, from 0 on; all by default.

    Returns
    -------
    KernelText

    References
    ----------
    MacKay, D. J. C. (1998). Introduction to Gaussian processes. In Neural Networks and Machine Learning, 133-165.

    Examples
    --------
    >>> str(rbf(dims=0) * periodic(dims=1))
    'rbf[0] * periodic[1]'
    """
    return factor_text("periodic", dims)


def linear(dims: Dims = None) -> KernelText:
    """x·x': functions that are linear in their dimensions.

    Parameters
    ----------
    dims : int or sequence of int, optional
        The latent dimensions that it is the inner product of, from 0 on; all by default.

    Returns
    -------
    KernelText

    Examples
    --------
    >>> str(linear(dims=0) + rbf(dims=1))
    'linear[0] + rbf[1]'
    """
    return factor_text("linear", dims)


def bias() -> KernelText:
    """Return a constant of each column, a term by itself.

    Returns
    -------
    KernelText

    Examples
    --------
    >>> str(rbf() + bias())
    'rbf + bias'
    """
    return KernelText("bias")
