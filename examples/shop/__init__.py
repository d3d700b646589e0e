"""A small shop of two services and a customer, which find each other on the network: ``python -m examples.shop``."""
