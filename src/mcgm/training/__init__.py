"""Training: thin layers between a potential, a data set and Lightning."""
