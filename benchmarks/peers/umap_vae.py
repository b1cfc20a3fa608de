"""UMAP at its defaults, and a variational autoencoder: two dimensions of a table, and of further rows.

    python -P umap_vae.py TASK.npz ANSWER.npz umap|vae

TASK: the standardised table Y, further rows Y_new, and a few rows to warm up with. ANSWER: the positions
X and X_new, Y_back, what X_new decodes to (of the autoencoder), the CPU seconds of the first call in this
process, of the fit and of the further rows, and the versions.
"""

import sys
import time
from importlib.metadata import version
from itertools import pairwise

import numpy as np

HIDDEN, STEPS, BATCH, RATE, SEED = 64, 5000, 64, 2e-3, 0


def by_umap():
    from umap import UMAP

    def fit(Y, epochs=None):
        return UMAP(random_state=SEED, n_jobs=1, n_epochs=epochs).fit(Y)

    return fit, lambda model: model.embedding_, lambda model, Y: (model.transform(Y), None)


def by_vae():
    """Kingma & Welling (2014): tanh layers of 64, a Gaussian decoder with one learnt noise, Adam."""
    import torch
    from torch import nn

    torch.set_num_threads(1)

    def layers(*sizes):
        parts = []
        for a, b in pairwise(sizes):
            parts += [nn.Linear(a, b), nn.Tanh()]
        return nn.Sequential(*parts[:-1])

    def fit(Y, steps=STEPS):
        torch.manual_seed(SEED)
        data = torch.tensor(Y, dtype=torch.float32)
        D = data.shape[1]
        encoder, decoder = layers(D, HIDDEN, HIDDEN, 4), layers(2, HIDDEN, HIDDEN, D)
        log_noise = nn.Parameter(torch.tensor(-1.0))
        weights = [*encoder.parameters(), *decoder.parameters(), log_noise]
        optimiser = torch.optim.Adam(weights, lr=RATE)
        for _ in range(steps):
            batch = data[torch.randint(len(data), (BATCH,))]
            mean, log_sd = encoder(batch).chunk(2, dim=1)
            x = mean + log_sd.exp() * torch.randn_like(mean)
            error = 0.5 * ((batch - decoder(x)) / log_noise.exp()).square().sum(dim=1)
            divergence = 0.5 * (mean.square() + (2 * log_sd).exp() - 2 * log_sd - 1).sum(dim=1)
            loss = (error + D * log_noise + divergence).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            return encoder, decoder, encoder(data)[:, :2].numpy()

    def further(model, Y):
        with torch.no_grad():
            X = model[0](torch.tensor(Y, dtype=torch.float32))[:, :2]
            return X.numpy(), model[1](X).numpy()

    return fit, lambda model: model[2], further


def main(task, answer, way):
    with np.load(task) as file:
        Y, Y_new, few = file["Y"], file["Y_new"], file["few"]
    began = time.process_time()
    fit, positions, further = by_umap() if way == "umap" else by_vae()
    further(fit(few, 10), few[:5])  # what a process compiles when it is first called
    ready = time.process_time()
    model = fit(Y)
    fitted = time.process_time()
    X_new, Y_back = further(model, Y_new)
    ended = time.process_time()
    package = "umap-learn" if way == "umap" else "torch"
    out = {"X": positions(model), "X_new": X_new, "version": version(package)}
    out |= {"first": ready - began, "seconds": fitted - ready, "seconds_new": ended - fitted}
    np.savez(answer, **out, **({} if Y_back is None else {"Y_back": Y_back}))


if __name__ == "__main__":
    main(*sys.argv[1:])
