//! LoRA adapters for Burn: layers, a registry, every common file format, merging and reports.
