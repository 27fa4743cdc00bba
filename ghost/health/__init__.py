"""How the process is: probes for whoever runs it, and figures for whoever watches it."""
