//! Kernels of convolutions as matrices.

use super::WeightFiles;

impl WeightFiles {
    /// The same tensors, with all dimensions of `key` but the first as one: the kernel of a
    /// convolution whose stride is its size, as the matrix of the linear layer that it is.
    pub fn flattened(&self, key: &str) -> Self {
        let mut files = self.clone();
        if let Some(entry) = files.entries.get_mut(key)
            && let [rows, rest @ ..] = entry.shape.as_slice()
        {
            entry.shape = vec![*rows, rest.iter().product()];
        }
        files
    }
}
