"""Scripts that make the small models shipped in the package."""
