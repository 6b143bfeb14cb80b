//! Attention, block-sparse attention and linear kernels for Burn backends.
