//! LoRA fine-tuning of LongCat-Video by Burn autodiff.
