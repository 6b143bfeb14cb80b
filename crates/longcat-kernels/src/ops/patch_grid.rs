//! Which positions of the input a convolution's kernel sees at each output position.

use super::Conv3dOptions;

/// Which input position each tap of the kernel reads at each output position.
///
/// For output `o` and tap `k` of a dimension, the place is `o · stride + k − before` in the input
/// whose positions are each repeated `repeat` times, or stand `spread` apart with zeros between.
/// Outside lie zeros. Arrays of three are for time, height and width.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PatchGrid {
    /// `[B, T, H, W, C]`.
    pub input: [usize; 5],
    /// `[T', H', W']`.
    pub output: [usize; 3],
    /// Taps.
    pub kernel: [usize; 3],
    /// From one output to the next.
    pub stride: [usize; 3],
    /// Zeros before the input.
    pub before: [usize; 3],
    /// Places that each input position fills; 1 where `spread` is not.
    pub repeat: [usize; 3],
    /// Places from one input position to the next; 1 where `repeat` is not.
    pub spread: [usize; 3],
}

impl PatchGrid {
    /// The grid of a convolution of `[B, T, H, W, C]`.
    pub(crate) fn forward(input: [usize; 5], kernel: [usize; 3], options: &Conv3dOptions) -> Self {
        let Conv3dOptions {
            stride,
            padding,
            upsample,
        } = *options;
        let output = std::array::from_fn(|i| {
            let [before, after] = padding[i];
            let places = input[i + 1] * upsample[i] + before + after;
            assert!(
                places >= kernel[i] && before < kernel[i] && after < kernel[i],
                "conv3d: kernel {kernel:?} on {input:?} with {options:?}"
            );
            (places - kernel[i]) / stride[i] + 1
        });
        Self {
            input,
            output,
            kernel,
            stride,
            before: padding.map(|[before, _]| before),
            repeat: upsample,
            spread: [1; 3],
        }
    }

    /// The grid that takes gradients `d_out` of a convolution back to its (enlarged) input.
    pub(crate) fn backward(
        input: [usize; 5],
        d_out: [usize; 5],
        kernel: [usize; 3],
        options: &Conv3dOptions,
    ) -> Self {
        Self {
            input: d_out,
            output: std::array::from_fn(|i| input[i + 1] * options.upsample[i]),
            kernel,
            stride: [1; 3],
            before: std::array::from_fn(|i| kernel[i] - 1 - options.padding[i][0]),
            repeat: [1; 3],
            spread: options.stride,
        }
    }

    /// Lines (runs of W' positions) of the output.
    pub fn lines(&self) -> usize {
        self.input[0] * self.output[0] * self.output[1]
    }

    /// Elements of a patch: taps in the order of the kernel's dimensions, each with all channels.
    pub fn columns(&self) -> usize {
        self.kernel.iter().product::<usize>() * self.input[4]
    }

    /// [`Self::columns`], filled up with zeros to a multiple of `multiple`.
    pub fn padded_columns(&self, multiple: usize) -> usize {
        self.columns().next_multiple_of(multiple)
    }

    /// The input position of dimension `i` at output `o` and tap `k`, unless there is zero.
    pub fn place(&self, i: usize, o: usize, k: usize) -> Option<usize> {
        let place = (o * self.stride[i] + k).checked_sub(self.before[i])?;
        let position = place / (self.repeat[i] * self.spread[i]);
        (place.is_multiple_of(self.spread[i]) && position < self.input[i + 1]).then_some(position)
    }

    /// Batch, T' and H' of a line.
    pub fn line(&self, line: usize) -> [usize; 3] {
        let [t, h, _] = self.output;
        [line / (t * h), line / h % t, line % h]
    }
}
