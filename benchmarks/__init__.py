"""How fast the package is, beside the limit of the machine and other libraries."""
