//! Weights that live in host memory and are on the device only while they are used.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn::module::{
    AutodiffModule, Content, Devices, EmptyRecord, Module, ModuleDisplay, ModuleDisplayDefault,
    ModuleMapper, ModuleVisitor,
};
use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{DType, Tensor, TensorData};

use crate::portable::{from_float, to_dtype};
use crate::{HostRow, KernelDevice, UploadTicket, Uploads};

/// A matrix in host memory that passes through a device.
///
/// A [`Passage`] sends the matrices of a block ahead while the device computes with those of the block
/// before. Without one, [`tensor`](Self::tensor) uploads the matrix for that use alone: slower, and the
/// same numbers.
///
/// Clones share what is on the device. Part of the module tree, without parameters or state of its own.
#[derive(Debug, Clone)]
pub struct StreamedWeight<B: Backend> {
    source: Arc<Source>,
    device: B::Device,
    place: Arc<Mutex<Place<B>>>,
}

#[derive(Debug)]
struct Source {
    row: HostRow,
    dtype: DType,
    shape: [usize; 2],
}

/// Where a matrix is, besides in host memory.
#[derive(Debug)]
enum Place<B: Backend> {
    Host,
    Coming(Tensor<B, 1>, UploadTicket),
    Device(Tensor<B, 2>),
}

impl<B: Backend> StreamedWeight<B> {
    /// The matrix of `shape` in `row`, computed with in `dtype`: its own, or a wider one.
    ///
    /// # Panics
    /// If the row has another length.
    pub fn new(row: HostRow, shape: [usize; 2], dtype: DType, device: &B::Device) -> Self {
        let needed = shape[0] * shape[1] * row.dtype.size();
        assert_eq!(row.bytes.len(), needed, "bytes of a matrix {shape:?}");
        let source = Source { row, dtype, shape };
        Self::of(Arc::new(source), device.clone())
    }

    /// The same matrix with other values: what merging made of it, say. They are kept in memory of their
    /// own, in their type.
    ///
    /// # Panics
    /// If they have another shape.
    pub fn with_values(&self, data: TensorData) -> Self {
        let dtype = data.dtype;
        let bytes = data.bytes.to_vec().into();
        Self::new(HostRow { bytes, dtype }, self.shape(), dtype, &self.device)
    }

    fn of(source: Arc<Source>, device: B::Device) -> Self {
        Self {
            source,
            device,
            place: Arc::new(Mutex::new(Place::Host)),
        }
    }

    /// Rows and columns.
    pub fn shape(&self) -> [usize; 2] {
        self.source.shape
    }

    /// The type of [`tensor`](Self::tensor).
    pub fn dtype(&self) -> DType {
        self.source.dtype
    }

    /// Where it is used.
    pub fn device(&self) -> &B::Device {
        &self.device
    }

    /// Bytes on the way to the device, and there before they are cast.
    pub fn stored_bytes(&self) -> usize {
        self.source.row.bytes.len()
    }

    fn place(&self) -> MutexGuard<'_, Place<B>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn matrix(&self, row: Tensor<B, 1>) -> Tensor<B, 2> {
        to_dtype(row.reshape(self.source.shape), self.source.dtype)
    }
}

impl<B: KernelDevice> StreamedWeight<B> {
    /// The matrix on the device, behind all that was queued there.
    pub fn tensor(&self) -> Tensor<B, 2> {
        Self::arrive(&[self]);
        match &*self.place() {
            Place::Device(tensor) => tensor.clone(),
            _ => self.upload(),
        }
    }

    fn upload(&self) -> Tensor<B, 2> {
        let HostRow { bytes, dtype } = &self.source.row;
        let row = B::float_from_bytes(bytes, *dtype, &self.device);
        self.matrix(from_float(row))
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
/// Dropping it gives back what is still there.
#[derive(Debug)]
pub struct Passage<'a, B: KernelDevice> {
    here: Vec<&'a StreamedWeight<B>>,
    ahead: VecDeque<Vec<&'a StreamedWeight<B>>>,
}

impl<'a, B: KernelDevice> Passage<'a, B> {
    /// The streamed weights of each block, in the order of their use. The first ones set out.
    pub fn new(blocks: impl IntoIterator<Item = Vec<&'a StreamedWeight<B>>>) -> Self {
        let passage = Self {
            here: Vec::new(),
            ahead: blocks.into_iter().collect(),
        };
        passage.send_next();
        passage
    }

    /// To be called before the work of each block is queued, when that of the block before has been:
    /// its weights are there from now on, and those of the block before are not.
    pub fn advance(&mut self) {
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

impl<B: KernelDevice> Drop for Passage<'_, B> {
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
            false => Self::of(self.source, device.clone()),
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
        StreamedWeight::of(self.source.clone(), self.device.clone())
    }

    fn from_inner(module: Self::InnerModule) -> Self {
        Self::of(module.source, module.device)
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
