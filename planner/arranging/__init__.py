"""Arranging: from needs to orders, within limits: role flips first, then replicas."""
