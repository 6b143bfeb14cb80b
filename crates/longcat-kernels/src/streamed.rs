//! Weights that live in host memory, and are on the device only while they are used.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::module::{
    AutodiffModule, Content, Devices, EmptyRecord, Module, ModuleDisplay, ModuleDisplayDefault,
    ModuleMapper, ModuleVisitor,
};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{DType, Tensor, TensorData};

use crate::ops::scaled_rows;
use crate::portable::{from_float, into_float};
use crate::{
    HostBytes, HostRow, KernelBackend, PackedLayout, PackedWeight, Products, QuantizedRows,
    UploadTicket, Uploads, linear, linear_packed, linear_quantized, unpack_weight,
};

/// A matrix in host memory that passes through a device, as floats or packed.
///
/// A [`Passage`] sends the matrices of a block ahead while the device computes with those of the block
/// before. Without one, [`tensor`](Self::tensor) and [`product`](Self::product) upload the matrix for that
/// use alone: slower, and the same numbers.
///
/// Clones share what is on the device. Part of the module tree, without parameters or state of its own.
#[derive(Debug, Clone)]
pub struct StreamedWeight<B: Backend> {
    source: Arc<Source>,
    /// The scales of a packed one, which stay on the device.
    scale: Option<Tensor<B, 1>>,
    device: B::Device,
    place: Arc<Mutex<Place<B>>>,
}

#[derive(Debug)]
struct Source {
    /// Floats, or the words of a packed matrix under the name of floats.
    row: HostRow,
    packed: Option<PackedLayout>,
    shape: [usize; 2],
    products: Products,
}

/// Where a matrix is, besides in host memory.
#[derive(Debug)]
enum Place<B: Backend> {
    Host,
    Coming(Tensor<B, 1>, UploadTicket),
    Device(Matrix<B>),
}

#[derive(Debug, Clone)]
enum Matrix<B: Backend> {
    Floats(Tensor<B, 2>),
    Packed(PackedWeight<B>),
}

impl<B: Backend> StreamedWeight<B> {
    /// The matrix of `shape` in `row`.
    ///
    /// # Panics
    /// If the row has another length.
    pub fn new(row: HostRow, shape: [usize; 2], device: &B::Device) -> Self {
        let needed = shape[0] * shape[1] * row.dtype.size();
        assert_eq!(row.bytes.len(), needed, "bytes of a matrix {shape:?}");
        let source = Source {
            row,
            packed: None,
            shape,
            products: Products::default(),
        };
        Self::of(Arc::new(source), None, device.clone())
    }

    /// A packed matrix, which is a [`PackedWeight`] on the device.
    ///
    /// # Panics
    /// If the layout has another number of bytes or scales.
    pub fn packed(
        bytes: HostBytes,
        scale: Option<&[f32]>,
        layout: PackedLayout,
        device: &B::Device,
    ) -> Self {
        assert_eq!(bytes.len(), layout.bytes(), "bytes of {layout:?}");
        let scale = scale.map(|scale| {
            assert_eq!(scale.len(), layout.scales(), "scales of {layout:?}");
            let data = TensorData::new(scale.to_vec(), [scale.len()]);
            Tensor::from_data(data, (device, DType::F32))
        });
        let bytes = match bytes.len().is_multiple_of(4) {
            true => bytes,
            false => {
                let mut words = bytes.to_vec();
                words.resize(4 * layout.words(), 0);
                words.into()
            }
        };
        let source = Source {
            row: HostRow {
                bytes,
                dtype: DType::F32,
            },
            packed: Some(layout),
            shape: layout.shape,
            products: Products::default(),
        };
        Self::of(Arc::new(source), scale, device.clone())
    }

    /// The same matrix, multiplied in other numbers; itself where its values or scales do not allow that.
    pub fn with_products(self, products: Products) -> Self {
        let Source {
            row, packed, shape, ..
        } = &*self.source;
        let (layout, scale) = match (products, packed) {
            (_, None) => return self,
            (Products::Dense, Some(layout)) => (*layout, self.scale.clone()),
            (Products::Fp8, Some(layout)) => {
                match scaled_rows(*layout, self.scale.as_ref(), &self.device) {
                    Some((layout, scale)) => (layout, Some(scale)),
                    None => return self,
                }
            }
        };
        let source = Source {
            row: row.clone(),
            packed: Some(layout),
            shape: *shape,
            products,
        };
        Self::of(Arc::new(source), scale, self.device)
    }

    /// In which numbers it is multiplied, where it is packed.
    pub fn products(&self) -> Products {
        self.source.products
    }

    /// The same matrix with other values: what merging made of it, say. They are kept in memory of their
    /// own, as floats of their type.
    ///
    /// # Panics
    /// If they have another shape.
    pub fn with_values(&self, data: TensorData) -> Self {
        let dtype = data.dtype;
        let bytes = data.bytes.to_vec().into();
        Self::new(HostRow { bytes, dtype }, self.shape(), &self.device)
    }

    fn of(source: Arc<Source>, scale: Option<Tensor<B, 1>>, device: B::Device) -> Self {
        Self {
            source,
            scale,
            device,
            place: Arc::new(Mutex::new(Place::Host)),
        }
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        self.source.shape
    }

    /// The type of [`tensor`](Self::tensor): f32 where it is packed.
    pub fn dtype(&self) -> DType {
        self.source.row.dtype
    }

    /// How it is packed; `None` for floats.
    pub fn layout(&self) -> Option<PackedLayout> {
        self.source.packed
    }

    /// Where it is used.
    pub fn device(&self) -> &B::Device {
        &self.device
    }

    /// Bytes on the way to the device, and there.
    pub fn stored_bytes(&self) -> usize {
        self.source.row.bytes.len()
    }

    fn place(&self) -> MutexGuard<'_, Place<B>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: KernelBackend> StreamedWeight<B> {
    /// The matrix as floats on the device, behind all that was queued there.
    pub fn tensor(&self) -> Tensor<B, 2> {
        match self.on_device() {
            Matrix::Floats(tensor) => tensor,
            Matrix::Packed(packed) => unpack_weight(&packed, self.dtype()),
        }
    }

    /// `x · Wᵀ + bias`, see [`linear`] and [`linear_packed`].
    pub fn product<const D: usize>(
        &self,
        x: Tensor<B, D>,
        bias: Option<Tensor<B, 1>>,
    ) -> Tensor<B, D> {
        match self.on_device() {
            Matrix::Floats(tensor) => linear(x, tensor, bias),
            Matrix::Packed(packed) => linear_packed(x, &packed, bias),
        }
    }

    /// [`linear_quantized`] where it is packed, else [`linear`] of the numbers.
    pub fn product_quantized<const D: usize>(
        &self,
        x: &QuantizedRows<B, D>,
        bias: Option<Tensor<B, 1>>,
    ) -> Tensor<B, D> {
        match self.on_device() {
            Matrix::Floats(tensor) => linear(x.numbers(), tensor, bias),
            Matrix::Packed(packed) => linear_quantized(x, &packed, bias),
        }
    }

    fn on_device(&self) -> Matrix<B> {
        Self::arrive(&[self]);
        match &*self.place() {
            Place::Device(matrix) => matrix.clone(),
            _ => {
                let HostRow { bytes, dtype } = &self.source.row;
                let row = B::float_from_bytes(bytes, *dtype, &self.device);
                self.matrix(from_float(row))
            }
        }
    }

    fn matrix(&self, row: Tensor<B, 1>) -> Matrix<B> {
        match self.source.packed {
            None => Matrix::Floats(row.reshape(self.source.shape)),
            Some(layout) => Matrix::Packed(PackedWeight {
                words: Tensor::from_primitive(B::words_of_floats(into_float(row))),
                scale: self.scale.clone(),
                layout,
                products: self.source.products,
            }),
        }
    }

    /// Sends those of the matrices to their device that are not there yet, all in one go. Nothing waits,
    /// and nothing that was queued before is held up.
    ///
    /// Memory comes from what the device's queue has given back by then: release what is done with
    /// first.
    fn prefetch(weights: &[&Self]) {
        let mut absent: Vec<(&Self, MutexGuard<'_, Place<B>>)> = Vec::new();
        for &weight in weights {
            // One that is named twice is held already.
            if absent
                .iter()
                .any(|(other, _)| Arc::ptr_eq(&other.place, &weight.place))
            {
                continue;
            }
            let place = weight.place();
            if matches!(*place, Place::Host) {
                absent.push((weight, place));
            }
        }
        let Some(device) = absent.first().map(|(weight, _)| weight.device.clone()) else {
            return;
        };
        let rows = absent.iter().map(|(weight, _)| weight.source.row.clone());
        let Uploads { rows, ticket } = B::begin_uploads(rows.collect(), &device);
        for ((_, mut place), row) in absent.into_iter().zip(rows) {
            *place = Place::Coming(from_float(row), ticket.clone());
        }
    }

    /// Lets what is queued from now on wait for matrices that were sent ahead.
    fn arrive(weights: &[&Self]) {
        let mut awaited: Option<UploadTicket> = None;
        for weight in weights {
            let mut place = weight.place();
            if let Place::Coming(row, ticket) = &*place {
                if !awaited.as_ref().is_some_and(|other| other.is_same(ticket)) {
                    B::await_uploads(ticket, &weight.device);
                    awaited = Some(ticket.clone());
                }
                *place = Place::Device(weight.matrix(row.clone()));
            }
        }
    }

    /// Gives the matrices' memory on the device back, once what was queued there is done.
    fn release(weights: &[&Self]) {
        Self::arrive(weights);
        for weight in weights {
            *weight.place() = Place::Host;
        }
    }
}

/// Blocks of weights that pass through a device one after another: while one is used, the next one that
/// is not on the device is on its way. At most two of those are there at a time.
///
/// What waits in a queue before it begins, and before each block, is given to the device then, also where
/// nothing passes: which operations become one kernel must not depend on what lives in host memory.
///
/// Dropping it gives back what is still there.
#[derive(Debug)]
pub struct Passage<'a, B: KernelBackend> {
    device: B::Device,
    here: Vec<&'a StreamedWeight<B>>,
    ahead: VecDeque<Vec<&'a StreamedWeight<B>>>,
}

impl<'a, B: KernelBackend> Passage<'a, B> {
    /// The streamed weights of each block on `device`, in the order of their use. The first ones set out.
    pub fn new(
        blocks: impl IntoIterator<Item = Vec<&'a StreamedWeight<B>>>,
        device: &B::Device,
    ) -> Self {
        B::submit_queued(device);
        let passage = Self {
            device: device.clone(),
            here: Vec::new(),
            ahead: blocks.into_iter().collect(),
        };
        passage.send_next();
        passage
    }

    /// To be called before the work of each block is queued, when that of the block before has been:
    /// its weights are there from now on, and those of the block before are not.
    pub fn advance(&mut self) {
        B::submit_queued(&self.device);
        StreamedWeight::release(&self.here);
        self.here = self.ahead.pop_front().unwrap_or_default();
        StreamedWeight::arrive(&self.here);
        self.send_next();
    }

    fn send_next(&self) {
        if let Some(next) = self.ahead.iter().find(|weights| !weights.is_empty()) {
            StreamedWeight::prefetch(next);
        }
    }
}

impl<B: KernelBackend> Drop for Passage<'_, B> {
    fn drop(&mut self) {
        StreamedWeight::release(&self.here);
        for weights in &self.ahead {
            StreamedWeight::release(weights);
        }
    }
}

impl<B: Backend> Module<B> for StreamedWeight<B> {
    type Record = EmptyRecord;

    fn visit<V: ModuleVisitor<B>>(&self, _visitor: &mut V) {}

    fn map<M: ModuleMapper<B>>(self, _mapper: &mut M) -> Self {
        self
    }

    fn load_record(self, _record: Self::Record) -> Self {
        self
    }

    fn into_record(self) -> Self::Record {
        EmptyRecord::new()
    }

    fn to_device(self, device: &B::Device) -> Self {
        match self.device == *device {
            true => self,
            false => {
                let scale = self.scale.map(|scale| scale.to_device(device));
                Self::of(self.source, scale, device.clone())
            }
        }
    }

    fn fork(self, device: &B::Device) -> Self {
        self.to_device(device)
    }

    fn collect_devices(&self, mut devices: Devices<B>) -> Devices<B> {
        if !devices.contains(&self.device) {
            devices.push(self.device.clone());
        }
        devices
    }
}

impl<B: AutodiffBackend> AutodiffModule<B> for StreamedWeight<B> {
    type InnerModule = StreamedWeight<B::InnerBackend>;

    fn valid(&self) -> Self::InnerModule {
        let scale = self.scale.clone().map(|scale| scale.inner());
        StreamedWeight::of(self.source.clone(), scale, self.device.clone())
    }

    fn from_inner(module: Self::InnerModule) -> Self {
        let scale = module.scale.map(Tensor::from_inner);
        Self::of(module.source, scale, module.device)
    }
}

impl<B: Backend> ModuleDisplayDefault for StreamedWeight<B> {
    fn content(&self, content: Content) -> Option<Content> {
        let [rows, columns] = self.source.shape;
        content
            .add_single(&format!("StreamedWeight[{rows}, {columns}]"))
            .optional()
    }
}

impl<B: Backend> ModuleDisplay for StreamedWeight<B> {}

/// Indices of the blocks that pass through the device where `resident` of `depth` blocks stay there:
/// spread evenly, so that a copy has the time of all blocks up to the next.
pub fn streamed_blocks(depth: usize, resident: usize) -> Vec<usize> {
    let streamed = depth.saturating_sub(resident);
    let before = |block: usize| block * streamed / depth.max(1);
    let is_streamed = |block: &usize| before(block + 1) > before(*block);
    (0..depth).filter(is_streamed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streamed_blocks_are_spread() {
        assert!(streamed_blocks(8, 8).is_empty());
        assert_eq!(streamed_blocks(8, 4), [1, 3, 5, 7]);
        assert_eq!(streamed_blocks(8, 6), [3, 7]);
        assert_eq!(streamed_blocks(3, 0), [0, 1, 2]);
        assert!(streamed_blocks(3, 9).is_empty());
        assert_eq!(streamed_blocks(48, 8).len(), 40);
    }
}
