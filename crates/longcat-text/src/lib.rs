//! The UMT5 text encoder, its tokenizer and prompt cleaning on Burn.
