"""Pyro: gp.models.GPLVM with a Delta guide on X, which makes its loss the exact MAP's."""

import numpy as np
import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import torch

PACKAGES = ("pyro-ppl", "torch")

torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)


def objective(Y, X0):
    pyro.set_rng_seed(0)
    one, X = torch.tensor(1.0), torch.tensor(X0)
    kernel = gp.kernels.RBF(X0.shape[1], variance=one, lengthscale=one)
    columns = torch.tensor(Y.T.copy())
    regression = gp.models.GPRegression(X, columns, kernel, noise=torch.tensor(0.1), jitter=1e-6)
    model = gp.models.GPLVM(regression)
    model.autoguide("X", dist.Delta)
    model.X_map.data = X
    loss_of = pyro.infer.Trace_ELBO().differentiable_loss
    loss_of(model.model, model.guide)  # makes the parameters
    parameters = list(model.parameters())

    def f(flat):
        torch.nn.utils.vector_to_parameters(torch.as_tensor(flat), parameters)
        for parameter in parameters:
            parameter.grad = None
        loss = loss_of(model.model, model.guide)
        loss.backward()
        return loss.item(), np.concatenate([p.grad.numpy().ravel() for p in parameters])

    return f, torch.nn.utils.parameters_to_vector(parameters).detach().numpy().copy()
