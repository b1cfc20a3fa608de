"""GPyTorch: ExactGP with the inputs as a parameter and one Cholesky for all columns."""

import math

import gpytorch
import numpy as np
import torch

PACKAGES = ("gpytorch", "torch")

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)


class Model(gpytorch.models.ExactGP):
    def __init__(self, X, columns, likelihood):
        super().__init__(X, columns, likelihood)
        self.mean_module = gpytorch.means.ZeroMean()
        self.covar_module = gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel())
        self.X = torch.nn.Parameter(X.clone())
        self.train_inputs = (self.X,)

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


def objective(Y, X0):
    columns = torch.tensor(Y.T.copy())
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    model = Model(torch.tensor(X0), columns, likelihood)
    model.covar_module.outputscale = 1.0
    model.covar_module.base_kernel.lengthscale = 1.0
    likelihood.noise = 0.1
    model.train()
    parameters = list(model.parameters())
    constant = 0.5 * X0.size * math.log(2 * math.pi)

    def f(flat):
        torch.nn.utils.vector_to_parameters(torch.as_tensor(flat), parameters)
        for parameter in parameters:
            parameter.grad = None
        # The default above 800 rows is conjugate gradients with a random log-determinant.
        with gpytorch.settings.max_cholesky_size(10**6):
            fit = likelihood(model(model.X)).log_prob(columns).sum()
            loss = -fit + 0.5 * (model.X**2).sum() + constant
        loss.backward()
        return loss.item(), np.concatenate([p.grad.numpy().ravel() for p in parameters])

    return f, torch.nn.utils.parameters_to_vector(parameters).detach().numpy().copy()
