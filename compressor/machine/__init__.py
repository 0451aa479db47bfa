"""The machine a run is on: hardware, GPU, devices, processes, interrupts."""
