"""Container images: Dockerfiles, what their build runs, and exactly which packages are in them."""
