"""What a running program tells those who operate it."""
