"""Seats of a theatre, and above all how such a service is tested: ``pytest examples/bookings``."""
