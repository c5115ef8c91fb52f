"""The commands: ``inspect``, ``reorganize``, ``shrink``, ``finetune``, ``compare``, ``demo``."""
