"""The exporter: /metrics, /healthz and /readyz from a process of its own, which reads what the supervisor publishes."""
