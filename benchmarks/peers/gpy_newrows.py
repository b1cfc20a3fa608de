"""GPy: infer_newX of models.GPLVM at given positions and hyperparameters.

    python -P gpy_newrows.py TASK.npz ANSWER.npz

TASK: the standardised table Y and new rows, X, lengthscale, amplitude, sigma. ANSWER: the places, the
CPU seconds of infer_newX, and the version.
"""

import sys
import time

import GPy
import numpy as np

with np.load(sys.argv[1]) as task:
    Y, new, X = task["Y"], task["new"], task["X"]
    lengthscale, amplitude, sigma = (task[n] for n in ("lengthscale", "amplitude", "sigma"))
Q = X.shape[1]
kernel = GPy.kern.RBF(Q, variance=float(amplitude) ** 2, lengthscale=lengthscale, ARD=True)
model = GPy.models.GPLVM(Y, Q, X=X.copy(), kernel=kernel)
model.Gaussian_noise.variance = float(sigma) ** 2
before = time.process_time()
places, inference = model.infer_newX(new)
seconds = time.process_time() - before
steps = inference.optimization_runs[-1].funct_eval
np.savez(sys.argv[2], X=places.values, seconds=seconds, steps=steps, version=GPy.__version__)
