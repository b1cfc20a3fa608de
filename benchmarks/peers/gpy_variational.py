"""GPy: models.BayesianGPLVM with its own gradients and its default optimiser."""

import GPy
import numpy as np

PACKAGES = ("GPy",)


def objective(Y, X0, n_inducing, own_start=False):
    if own_start:  # all as GPy has it: PCA, lengthscales by the principal components' shares
        np.random.seed(1)  # noqa: NPY002  GPy knows no other
        model = GPy.models.BayesianGPLVM(Y, X0.shape[1], num_inducing=n_inducing)
        return model._objective_grads, model.optimizer_array.copy()
    rows = np.random.default_rng(0).permutation(len(Y))[:n_inducing]
    model = GPy.models.BayesianGPLVM(
        Y,
        X0.shape[1],
        X=X0.copy(),
        X_variance=np.full(X0.shape, 0.1),
        Z=X0[rows].copy(),
        num_inducing=n_inducing,
        kernel=GPy.kern.RBF(X0.shape[1], ARD=True, variance=1.0, lengthscale=np.ones(X0.shape[1])),
        likelihood=GPy.likelihoods.Gaussian(variance=0.1),
    )
    return model._objective_grads, model.optimizer_array.copy()


def optimise(f, x0, recorder):
    model = f.__self__
    model.optimizer_array = x0
    model._objective_grads = recorder.wrap(f)
    model.optimize(max_iters=100_000)
    return str(model.optimization_runs[-1].status)
