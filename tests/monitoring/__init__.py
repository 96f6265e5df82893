"""What checks the files for Prometheus and Grafana with Prometheus's own tool."""
