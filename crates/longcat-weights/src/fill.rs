//! Filling a module with tensors that other threads read and upload ahead.
//!
//! Reading a gigabyte from the page cache on one thread takes as long as several copies of it to a
//! GPU, most of it for memory that is touched for the first time; and cubecl copies what it uploads
//! once more, on the thread that asks for it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::vec::IntoIter;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Shape, StreamId, Tensor, TensorPrimitive};
use longcat_kernels::{HostRow, KernelBackend, StreamedWeight, wait};
use rayon::prelude::*;

use crate::load::WeightById;
use crate::packing::{PackedRows, Packing};
use crate::{Weight, WeightFiles, WeightsError};

/// Bytes that are under way at once, as they are on the device.
const RUN_BYTES: usize = 1 << 30;

/// Where a parameter comes from.
pub(crate) struct Source<'a, B: Backend> {
    pub(crate) key: &'a str,
    /// The type on the device; the stored one where `None`.
    pub(crate) dtype: Option<DType>,
    /// How it is packed there, if it is.
    pub(crate) packing: Option<Packing>,
    /// Whether it is a matrix that stays in host memory.
    pub(crate) on_host: bool,
    /// Whether the file holds the transposed matrix.
    pub(crate) transposed: bool,
    pub(crate) device: B::Device,
}

/// What a parameter becomes.
enum Sent<B: Backend> {
    /// A tensor as one row, and its shape.
    Row(Tensor<B, 1>, Shape),
    /// No parameter.
    Made(Weight<B>),
}

impl<B: Backend> Source<'_, B> {
    /// Its bytes on the device.
    fn bytes(&self, files: &WeightFiles) -> usize {
        let stored = self.packing.zip(files.stored(self.key).ok());
        match stored {
            Some((packing, stored)) => packing.bytes(&stored),
            None => files.loaded_bytes(self.key, self.dtype),
        }
    }
}

impl<B: KernelBackend> Source<'_, B> {
    /// Gives the tensor to the device.
    fn send(&self, files: &WeightFiles) -> Result<Sent<B>, WeightsError> {
        let stored = files.stored(self.key)?;
        if let Some(packing) = self.packing {
            let parts = packing.pack(&stored);
            let mut parts = parts.map_err(|index| files.not_finite(self.key, index))?;
            if let (true, [_]) = (self.on_host, parts.as_slice()) {
                let whole = parts.remove(0);
                return Ok(Sent::Made(self.packed_on_host(files, whole)?));
            }
            let upload = |part: PackedRows<'_>| part.upload::<B>(&self.device);
            let parts = parts.into_iter().map(upload).collect();
            return Ok(Sent::Made(Weight::Packed(parts)));
        }
        let dtype = self.dtype.unwrap_or(stored.natural_dtype());
        if let (true, [rows, columns]) = (self.on_host, stored.shape.as_slice()) {
            let shape = [*rows, *columns];
            let row = self.row_on_host(files, stored.float(), dtype)?;
            let streamed = StreamedWeight::new(row, shape, &self.device);
            return Ok(Sent::Made(Weight::Streamed(streamed)));
        }
        if stored.float() == Some(dtype) {
            let (bytes, shape) = files.finite_bytes(self.key)?;
            return Ok(Sent::Row(self.row(&bytes, dtype), shape.into()));
        }
        let data = files.tensor_data_in(self.key, Some(dtype))?;
        Ok(Sent::Row(self.row(&data.bytes, dtype), data.shape))
    }

    /// Packed rows that stay where they are, in the file if they are packed as they are there.
    fn packed_on_host(
        &self,
        files: &WeightFiles,
        rows: PackedRows<'_>,
    ) -> Result<Weight<B>, WeightsError> {
        let bytes = match rows.bytes {
            Cow::Borrowed(_) => files.host_bytes(self.key)?,
            Cow::Owned(bytes) => bytes.into(),
        };
        let scale = rows.scale.as_deref();
        let streamed = StreamedWeight::packed(bytes, scale, rows.layout, &self.device);
        Ok(Weight::Streamed(streamed))
    }

    /// Floats that stay where they are, in the file if they are of this type there; else in memory of their
    /// own.
    fn row_on_host(
        &self,
        files: &WeightFiles,
        stored: Option<DType>,
        dtype: DType,
    ) -> Result<HostRow, WeightsError> {
        let bytes = match stored == Some(dtype) {
            true => {
                files.finite_bytes(self.key)?;
                files.host_bytes(self.key)?
            }
            false => {
                let data = files.tensor_data_in(self.key, Some(dtype))?;
                data.bytes.to_vec().into()
            }
        };
        Ok(HostRow { bytes, dtype })
    }

    fn row(&self, bytes: &[u8], dtype: DType) -> Tensor<B, 1> {
        let row = B::float_from_bytes(bytes, dtype, &self.device);
        Tensor::from_primitive(TensorPrimitive::Float(row))
    }
}

/// `module` with its parameters replaced, those in the order of `sources`, and what is no parameter.
///
/// # Errors
/// What [`WeightFiles::tensor_data`] refuses.
pub(crate) fn filled<B: KernelBackend, M: Module<B>>(
    module: &M,
    files: &WeightFiles,
    sources: &[Source<'_, B>],
) -> Result<(M, WeightById<B>), WeightsError> {
    if let Some(source) = sources.iter().find(|source| source.on_host) {
        // While files are read, rather than in the first pass.
        B::begin_uploads(Vec::new(), &source.device);
    }
    // The device takes what other threads upload for work of this one.
    let stream = StreamId::current();
    thread::scope(|scope| {
        let (sender, runs) = sync_channel(1);
        scope.spawn(move || read_ahead(files, sources, stream, &sender));
        let mut filling = Filling {
            runs,
            ready: Vec::new().into_iter(),
            sources: sources.iter(),
            made: BTreeMap::new(),
            failure: None,
        };
        // A clone shares its tensors, and those that were not made yet are not made for it.
        let module = module.clone().map(&mut filling);
        match filling.failure {
            Some(failure) => Err(failure),
            None => Ok((module, filling.made)),
        }
    })
}

type Run<B> = Result<Vec<Sent<B>>, WeightsError>;

/// Sends runs of tensors, until all are sent, one fails, or nobody wants more.
fn read_ahead<B: KernelBackend>(
    files: &WeightFiles,
    sources: &[Source<'_, B>],
    stream: StreamId,
    sender: &SyncSender<Run<B>>,
) {
    for run in runs(files, sources) {
        let run = &sources[run];
        let sent: Run<B> = run
            .par_iter()
            .map(|source| stream.executes(|| source.send(files)))
            .collect();
        // The host keeps what it uploads until the device has it.
        let device = &run[0].device;
        stream.executes(|| wait::<B>(device));
        let sent = match B::fault(device) {
            None => sent,
            Some(fault) => Err(WeightsError::Device {
                path: files.path().to_path_buf(),
                fault,
            }),
        };
        let failed = sent.is_err();
        if sender.send(sent).is_err() || failed {
            return;
        }
    }
}

/// The sources in runs of about [`RUN_BYTES`].
fn runs<B: Backend>(files: &WeightFiles, sources: &[Source<'_, B>]) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (i, source) in sources.iter().enumerate() {
        bytes += source.bytes(files);
        if bytes >= RUN_BYTES || i + 1 == sources.len() {
            runs.push(start..i + 1);
            (start, bytes) = (i + 1, 0);
        }
    }
    runs
}

struct Filling<'a, B: Backend> {
    runs: Receiver<Run<B>>,
    ready: IntoIter<Sent<B>>,
    sources: std::slice::Iter<'a, Source<'a, B>>,
    made: WeightById<B>,
    failure: Option<WeightsError>,
}

impl<B: Backend> Filling<'_, B> {
    /// The tensor of the next parameter; `None` after a failure.
    fn next(&mut self) -> Option<(Sent<B>, bool)> {
        let source = self.sources.next()?;
        loop {
            if let Some(sent) = self.ready.next() {
                return Some((sent, source.transposed));
            }
            match self.runs.recv().ok()? {
                Ok(run) => self.ready = run.into_iter(),
                Err(failure) => self.failure = Some(failure),
            }
        }
    }
}

impl<B: Backend> ModuleMapper<B> for Filling<'_, B> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let (row, shape, transposed) = match self.next() {
            Some((Sent::Row(row, shape), transposed)) => (row, shape, transposed),
            Some((Sent::Made(weight), _)) => {
                self.made.insert(param.id, weight);
                return param;
            }
            None => return param,
        };
        let tensor: Tensor<B, D> = row.reshape(shape);
        let tensor = match transposed {
            true => tensor.swap_dims(D - 2, D - 1),
            false => tensor,
        };
        let id = param.id;
        param.transform_for_load(tensor, id)
    }
}
