"""Tables, files, and a fit as an object."""
