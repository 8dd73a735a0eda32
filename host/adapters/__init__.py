"""LoRA adapters as files: read and written under the names of diffusers, peft and kohya's tools."""
