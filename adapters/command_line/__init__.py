"""The commands: ``inspect``, ``reorganize``, ``finetune``, ``compare``, ``demo``."""
