"""The exporter: /metrics, /healthz, /readyz and a page, from a process that reads what the supervisor publishes."""
