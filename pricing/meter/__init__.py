"""Measured power and utilization of GPUs and hosts, attributed to replicas; joules per token from them."""
