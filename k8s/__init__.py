"""Raymill on Kubernetes: profiles, the manifests rendered from them, and the checks that a schema cannot make."""
