//! How fast devices work: measured once by us, or told from a product and a copy on the device itself.

/// What a device does in a second, the transformer in 16-bit floats where it was measured so.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DeviceRates {
    /// Operations of linear layers, with the time of what lies between them in a block.
    pub products: f64,
    /// The same where matrices are multiplied in fp8.
    pub fp8_products: f64,
    /// Operations of the two small products of an adapter beside a layer.
    pub low_rank: f64,
    /// Operations of attention to all keys.
    pub attention: f64,
    /// The same where it is computed in eight bits.
    pub fp8_attention: f64,
    /// Operations of block-sparse attention, with the time of choosing its blocks.
    pub sparse_attention: f64,
    /// The same where it is computed in eight bits.
    pub fp8_sparse_attention: f64,
    /// Operations of the text encoder.
    pub text: f64,
    /// Pixels that the VAE makes latents of.
    pub encoded: f64,
    /// Pixels that the VAE makes of latents.
    pub decoded: f64,
    /// Bytes that come from host memory beside the work.
    pub copies: f64,
    /// Where the rates are from.
    pub source: RatesSource,
}

/// Where rates are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RatesSource {
    /// Measured on devices of this name.
    Known(&'static str),
    /// Those of a known device, by what a product takes on this one; copies as measured.
    Measured,
}

/// Hopper, as `BENCHMARKS.md` has it. H100 and H200 compute alike: a block at 37,440 tokens took 64.5 to 66.4 ms
/// of an H100 and 64.7 ms of an H200.
const HOPPER: DeviceRates = DeviceRates {
    // A block: 17.7 of its 40.8 TFLOP, in what attention leaves of 64.7 ms ("Memory", twelve blocks).
    products: 587e12,
    // The matrices of a block take 14.3 ms instead of 26.0 ("Products in fp8"), what lies between them the same.
    fp8_products: 961e12,
    // Rank 128 on seven kinds of layers is 0.98 TFLOP and 3.7 ms ("A transformer block").
    low_rank: 265e12,
    // "Attention, dense".
    attention: 669e12,
    // "Attention in eight bits".
    fp8_attention: 916e12,
    // 29.2 TFLOP in what is left of a block at 168,960 tokens, 207.5 ms ("A transformer block").
    sparse_attention: 411e12,
    // 18.3 ms less of a block of refining than where that is 411e12.
    fp8_sparse_attention: 554e12,
    // 4.84 TFLOP in 25.8 ms ("Text encoder").
    text: 188e12,
    // 93 frames of 480×832 in 950 and 1,477 ms ("VAE").
    encoded: 39.1e6,
    decoded: 25.1e6,
    // From page-locked memory, beside products.
    copies: 55e9,
    source: RatesSource::Known("NVIDIA H200"),
};

/// The H100 that was measured.
const H100: DeviceRates = DeviceRates {
    source: RatesSource::Known("NVIDIA H100 80GB HBM3"),
    ..HOPPER
};

/// What a Hopper card does in a second of large products alone, in bf16 ("Linear layers", without bias).
const HOPPER_PRODUCTS: f64 = 705e12;

impl DeviceRates {
    /// Rates of a device of this name, if one was measured. The whole name counts: cards for PCIe slots
    /// (`NVIDIA H200 NVL`) and parts of a GPU (`NVIDIA H200 MIG 1g.18gb`) are slower.
    pub fn of_model(name: &str) -> Option<Self> {
        let mut known = [HOPPER, H100].into_iter();
        known.find(|rates| matches!(rates.source, RatesSource::Known(known) if known == name))
    }

    /// The same where matrices are multiplied in fp8 (`--products fp8`).
    pub fn in_fp8(self) -> Self {
        Self {
            products: self.fp8_products,
            ..self
        }
    }

    /// The same where attention is computed in eight bits (`--attention fp8`).
    pub fn in_fp8_attention(self) -> Self {
        Self {
            attention: self.fp8_attention,
            sparse_attention: self.fp8_sparse_attention,
            ..self
        }
    }

    /// Rates of a device that does so many operations of products in a second, and copies so many bytes from
    /// host memory: all else is taken to be slower than on a known device by as much as the products.
    pub fn from_measured(products: f64, copies: f64) -> Self {
        let by = products / HOPPER_PRODUCTS;
        Self {
            products: HOPPER.products * by,
            // Whether it is faster in fp8 is not known.
            fp8_products: HOPPER.products * by,
            low_rank: HOPPER.low_rank * by,
            attention: HOPPER.attention * by,
            sparse_attention: HOPPER.sparse_attention * by,
            // As above.
            fp8_attention: HOPPER.attention * by,
            fp8_sparse_attention: HOPPER.sparse_attention * by,
            text: HOPPER.text * by,
            encoded: HOPPER.encoded * by,
            decoded: HOPPER.decoded * by,
            copies,
            source: RatesSource::Measured,
        }
    }
}
