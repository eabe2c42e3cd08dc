"""Starts restem on this machine, Vertex AI, Cloud TPU VMs or GKE; see docs/launching.md."""
