"""PyMC and PyTensor: build a model, read it, compile its density."""
