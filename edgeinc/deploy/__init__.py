"""From a trained step to a file for devices, and the proof of what it does and how fast it is."""
