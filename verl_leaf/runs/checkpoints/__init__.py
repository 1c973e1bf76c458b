"""The trained LoRA adapter in PEFT's format, and models with an adapter merged into their weights.

``python -m verl.model_merger`` (0.9.1) rounds the adapter to bfloat16 and wants to write the whole model beside it. And
transformers' ``save_pretrained`` (5.10.4) writes Qwen2-Audio under names that neither the hub nor vLLM knows. Here both are
written with the names of the checkpoint files on the hub, which plain transformers, PEFT and vLLM all load.
"""
