"""Arrays in, arrays out: the kernel table, the Gaussian conditional, inducing inputs, row updates."""
