"""GPy: models.GPLVM with its own gradients and its default optimiser."""

import GPy

PACKAGES = ("GPy",)


def objective(Y, X0):
    kernel = GPy.kern.RBF(X0.shape[1], variance=1.0, lengthscale=1.0)
    model = GPy.models.GPLVM(Y, X0.shape[1], X=X0.copy(), kernel=kernel)
    model.Gaussian_noise.variance = 0.1
    model.X.set_prior(GPy.priors.Gaussian(0.0, 1.0), warning=False)
    # What GPy hands to its optimisers: the negative log-posterior and its gradient.
    return model._objective_grads, model.optimizer_array.copy()


def optimise(f, x0, recorder):
    model = f.__self__
    model.optimizer_array = x0
    model._objective_grads = recorder.wrap(f)
    model.optimize(max_iters=100_000)
    return str(model.optimization_runs[-1].status)
