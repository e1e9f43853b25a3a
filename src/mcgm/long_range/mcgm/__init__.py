"""Multi-stage Clustered Global Modeling (arXiv:2509.22028): cluster, aggregate, disseminate."""
