"""videojob: a Kubernetes-native operator and serving stack for generated video."""

__version__ = "0.1.0"
