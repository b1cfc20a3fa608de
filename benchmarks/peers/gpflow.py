"""GPflow: models.GPLVM with a prior on X, through its wrapper for SciPy."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import gpflow
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

PACKAGES = ("gpflow", "tensorflow")

tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.threading.set_inter_op_parallelism_threads(1)


def objective(Y, X0):
    kernel = gpflow.kernels.SquaredExponential(variance=1.0, lengthscales=1.0)
    model = gpflow.models.GPLVM(Y, X0.shape[1], X_data_mean=X0, kernel=kernel)
    model.likelihood.variance.assign(0.1)
    X = model.data[0]
    X.prior = tfp.distributions.Normal(np.float64(0.0), np.float64(1.0))
    variables = model.trainable_variables
    scipy = gpflow.optimizers.Scipy()
    f = scipy.eval_func(model.training_loss, variables, tf_fun_args={}, compile=True)
    return f, scipy.initial_parameters(variables).numpy()
