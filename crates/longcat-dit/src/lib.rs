//! The LongCat-Video diffusion transformer on Burn.
