"""A user's own files: fetched, recognized by their first lines, and read into the tables that releases have."""
