//! Which matrices stay packed or are packed while they load, and how.

use std::borrow::Cow;
use std::sync::Arc;

use burn::tensor::DType;
use longcat_kernels::{KernelBackend, PackedLayout, PackedWeight};

use crate::stored::{Quantization, Quantized, StoredPart, StoredTensor, quantize_stored};
use crate::{Precision, WeightFiles, WeightsError};

/// How a matrix is packed on its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// As its file has it.
    Stored,
    /// In another way: its numbers are packed anew.
    As(Quantization),
}

impl Packing {
    /// How a stored matrix is to be kept; `None`: as floats. Where floats stay, what is packed does, too.
    pub(crate) fn of(
        stored: &StoredTensor<'_>,
        precision: Precision,
        floats_stay: bool,
    ) -> Option<Self> {
        let there = layouts(stored);
        Self::choose(&stored.shape, there.as_deref(), precision, floats_stay)
    }

    /// The same for a shape, and how it lies in the file if it is packed there.
    fn choose(
        shape: &[usize],
        there: Option<&[PackedLayout]>,
        precision: Precision,
        floats_stay: bool,
    ) -> Option<Self> {
        if precision == Precision::Dense {
            return None;
        }
        let wanted = precision.quantization(shape).filter(|_| !floats_stay);
        match (there, wanted) {
            (Some(there), Some(wanted)) if there.iter().any(|l| l.kind != wanted.kind()) => {
                Some(Self::As(wanted))
            }
            (Some(_), _) => Some(Self::Stored),
            (None, wanted) => wanted.map(Self::As),
        }
    }

    /// Bytes of the packed matrix without scales beside it.
    pub(crate) fn bytes(self, stored: &StoredTensor<'_>) -> usize {
        match (self, stored.shape.as_slice()) {
            (Self::As(to), &[rows, columns]) => to.layout([rows, columns]).bytes(),
            _ => stored.parts.iter().map(|part| part.bytes.len()).sum(),
        }
    }

    /// The matrix in parts of its rows, each packed in one way.
    ///
    /// # Errors
    /// The number of the first value that is not finite.
    pub(crate) fn pack<'a>(self, stored: &StoredTensor<'a>) -> Result<Vec<PackedRows<'a>>, usize> {
        match self {
            Self::As(to) => {
                let Quantized {
                    bytes,
                    scale,
                    layout,
                } = quantized(stored, to)?;
                Ok(vec![PackedRows {
                    layout,
                    bytes: bytes.into(),
                    scale: scale.map(Arc::from),
                }])
            }
            Self::Stored => {
                stored.check_finite()?;
                let parts = layouts(stored).unwrap_or_default();
                let rows = parts.into_iter().zip(&stored.parts).map(|(layout, part)| {
                    let scale = part.scale.as_ref();
                    PackedRows {
                        layout,
                        bytes: part.bytes.into(),
                        scale: scale.map(|scale| scale.values.clone()),
                    }
                });
                Ok(fused(rows.collect()))
            }
        }
    }
}

/// What a matrix takes of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeptMatrix {
    /// Its bytes, and those of scales beside it.
    pub bytes: u64,
    /// Whether it is packed there.
    pub packed: bool,
}

impl KeptMatrix {
    /// A matrix `[out, in]` of floats as [`load_host`](crate::load_host) keeps it with this precision, in
    /// `dtype` where that is as floats. Those that [`LoadOptions::keep_dense`] names are not packed.
    ///
    /// [`LoadOptions::keep_dense`]: crate::LoadOptions::keep_dense
    pub fn of_floats(
        shape: [usize; 2],
        dtype: DType,
        precision: Precision,
        keep_dense: bool,
    ) -> Self {
        match Packing::choose(&shape, None, precision, keep_dense) {
            Some(Packing::As(to)) => Self::packed_as(to, shape),
            _ => Self::floats(&shape, dtype),
        }
    }

    fn packed_as(to: Quantization, shape: [usize; 2]) -> Self {
        let layout = to.layout(shape);
        // Blocks have their scales inside.
        let scaled = layout.kind.elements() == 1;
        Self {
            bytes: device_bytes(&layout, scaled),
            packed: true,
        }
    }

    fn floats(shape: &[usize], dtype: DType) -> Self {
        Self {
            bytes: (shape.iter().product::<usize>() * dtype.size()) as u64,
            packed: false,
        }
    }
}

/// Words and scales of a packed matrix on a device.
fn device_bytes(layout: &PackedLayout, scaled: bool) -> u64 {
    let scales = if scaled { layout.scales() } else { 0 };
    4 * (layout.words() + scales) as u64
}

/// How the parts of a stored matrix lie in memory; `None` where devices do not compute with one as it is.
fn layouts(stored: &StoredTensor<'_>) -> Option<Vec<PackedLayout>> {
    let [_, columns] = *stored.shape.as_slice() else {
        return None;
    };
    let layout = |part: &StoredPart<'_>| {
        let kind = part.kind.packed()?;
        let layout = PackedLayout::new(kind, [part.elements.checked_div(columns)?, columns]);
        let layout = match &part.scale {
            Some(scale) => layout.with_group(scale.group),
            None => layout,
        };
        layout.is_valid().then_some(layout)
    };
    stored.parts.iter().map(layout).collect()
}

fn quantized(stored: &StoredTensor<'_>, to: Quantization) -> Result<Quantized, usize> {
    let [rows, columns] = *stored.shape.as_slice() else {
        unreachable!("only matrices are packed");
    };
    quantize_stored(stored, [rows, columns], to)
}

impl WeightFiles {
    /// A matrix as [`load_host`](crate::load_host) packs it with this precision.
    ///
    /// # Errors
    /// As [`Self::tensor_data`]; [`WeightsError::Unsupported`] for a tensor that is not packed so.
    pub fn quantized(&self, key: &str, precision: Precision) -> Result<Quantized, WeightsError> {
        let stored = self.stored(key)?;
        let to = precision.quantization(&stored.shape);
        let to = to.ok_or_else(|| WeightsError::Unsupported {
            path: self.place(key),
            key: key.to_string(),
            reason: format!("a tensor {:?} is not packed as {precision}", stored.shape),
        })?;
        quantized(&stored, to).map_err(|index| self.not_finite(key, index))
    }

    /// How a packed matrix that the file has in one piece lies there; `None` for other tensors.
    ///
    /// # Errors
    /// As [`Self::stored`].
    pub fn packed_layout(&self, key: &str) -> Result<Option<PackedLayout>, WeightsError> {
        let layouts = layouts(&self.stored(key)?).unwrap_or_default();
        Ok(match layouts.as_slice() {
            [whole] => Some(*whole),
            _ => None,
        })
    }

    /// What a matrix takes of a device as [`load_host`](crate::load_host) keeps it, see
    /// [`KeptMatrix::of_floats`]. One that is packed in the file stays so unless the precision says otherwise.
    ///
    /// # Errors
    /// As [`Self::stored`].
    pub fn kept(
        &self,
        key: &str,
        dtype: DType,
        precision: Precision,
        keep_dense: bool,
    ) -> Result<KeptMatrix, WeightsError> {
        let stored = self.stored(key)?;
        let there = layouts(&stored);
        let chosen = Packing::choose(&stored.shape, there.as_deref(), precision, keep_dense);
        Ok(match (chosen, stored.shape.as_slice()) {
            (Some(Packing::As(to)), &[rows, columns]) => KeptMatrix::packed_as(to, [rows, columns]),
            (Some(Packing::Stored), _) => {
                let parts = there.iter().flatten().zip(&stored.parts);
                let bytes = parts.map(|(layout, part)| device_bytes(layout, part.scale.is_some()));
                KeptMatrix {
                    bytes: bytes.sum(),
                    packed: true,
                }
            }
            _ => KeptMatrix::floats(&stored.shape, dtype),
        })
    }
}

/// Rows of a matrix that are packed in one way.
pub(crate) struct PackedRows<'a> {
    pub(crate) layout: PackedLayout,
    pub(crate) bytes: Cow<'a, [u8]>,
    pub(crate) scale: Option<Arc<[f32]>>,
}

impl PackedRows<'_> {
    /// Sends them to a device.
    pub(crate) fn upload<B: KernelBackend>(self, device: &B::Device) -> PackedWeight<B> {
        PackedWeight::from_bytes(&self.bytes, self.scale.as_deref(), self.layout, device)
    }
}

/// Parts that are packed alike as one; others as they are.
fn fused(parts: Vec<PackedRows<'_>>) -> Vec<PackedRows<'_>> {
    let Some(first) = parts.first().map(|part| part.layout) else {
        return parts;
    };
    let [_, columns] = first.shape;
    // A scale of more than a row becomes one of each row.
    let groups = parts.iter().map(|part| part.layout.group);
    let group = groups.min().unwrap_or(columns).min(columns);
    let alike = |part: &PackedRows<'_>| {
        part.layout.kind == first.kind && part.layout.group.is_multiple_of(group)
    };
    if parts.len() == 1 || !parts.iter().all(alike) {
        return parts;
    }
    let rows = parts.iter().map(|part| part.layout.shape[0]).sum();
    let layout = PackedLayout::new(first.kind, [rows, columns]);
    let scaled = parts.iter().any(|part| part.scale.is_some());
    let mut bytes = Vec::with_capacity(layout.bytes());
    let mut scale = Vec::new();
    for part in &parts {
        bytes.extend_from_slice(&part.bytes);
        if scaled {
            let repeats = part.layout.group / group;
            let own = part.scale.as_deref();
            let one = vec![1.0; part.layout.scales()];
            let values = own.unwrap_or(&one).iter();
            scale.extend(values.flat_map(|v| std::iter::repeat_n(*v, repeats)));
        }
    }
    vec![PackedRows {
        layout: match scaled {
            true => layout.with_group(group),
            false => layout,
        },
        bytes: bytes.into(),
        scale: scaled.then(|| scale.into()),
    }]
}
