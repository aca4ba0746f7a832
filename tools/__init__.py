"""Programs for the work on the project; not part of the package."""
