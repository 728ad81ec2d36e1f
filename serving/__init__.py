"""Honouring offers: gateways, gates, pools, upstreams, the ledger and the command line."""
