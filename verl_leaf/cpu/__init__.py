"""Running without an accelerator: veRL's platform for the CPU, and vLLM's CPU distribution under the name veRL asks for."""
