//! Filling a module with tensors that other threads read ahead.
//!
//! Reading a gigabyte from the page cache on one thread takes as long as several copies of it to a
//! GPU, most of it for memory that is touched for the first time.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::vec::IntoIter;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Tensor, TensorData};
use rayon::prelude::*;

use crate::{WeightFiles, WeightsError, upload};

/// Bytes that are read at once; about twice as many wait in memory.
const RUN_BYTES: usize = 1 << 30;

/// Where a parameter comes from.
pub(crate) struct Source<'a> {
    pub(crate) key: &'a str,
    /// The type on the device; the stored one where `None`.
    pub(crate) dtype: Option<DType>,
    /// Whether the file holds the transposed matrix.
    pub(crate) transposed: bool,
}

impl Source<'_> {
    fn read(&self, files: &WeightFiles) -> Result<TensorData, WeightsError> {
        let data = files.tensor_data(self.key)?;
        Ok(match self.dtype {
            Some(dtype) if dtype != data.dtype => data.convert_dtype(dtype),
            _ => data,
        })
    }
}

/// `module` with its parameters replaced, those in the order of `sources`.
///
/// # Errors
/// What [`WeightFiles::tensor_data`] refuses.
pub(crate) fn filled<B: Backend, M: Module<B>>(
    module: &M,
    files: &WeightFiles,
    sources: &[Source],
) -> Result<M, WeightsError> {
    thread::scope(|scope| {
        let (sender, runs) = sync_channel(1);
        scope.spawn(move || read_ahead(files, sources, &sender));
        let mut filling = Filling {
            runs,
            ready: Vec::new().into_iter(),
            sources: sources.iter(),
            failure: None,
        };
        // A clone shares its tensors, and those that were not made yet are not made for it.
        let module = module.clone().map(&mut filling);
        match filling.failure {
            Some(failure) => Err(failure),
            None => Ok(module),
        }
    })
}

type Run = Result<Vec<TensorData>, WeightsError>;

/// Sends runs of tensors, until all are sent, one fails, or nobody wants more.
fn read_ahead(files: &WeightFiles, sources: &[Source], sender: &SyncSender<Run>) {
    for run in runs(files, sources) {
        let read: Run = sources[run]
            .par_iter()
            .map(|source| source.read(files))
            .collect();
        let failed = read.is_err();
        if sender.send(read).is_err() || failed {
            return;
        }
    }
}

/// The sources in runs of about [`RUN_BYTES`].
fn runs(files: &WeightFiles, sources: &[Source]) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (i, source) in sources.iter().enumerate() {
        bytes += files.stored_bytes(source.key);
        if bytes >= RUN_BYTES || i + 1 == sources.len() {
            runs.push(start..i + 1);
            (start, bytes) = (i + 1, 0);
        }
    }
    runs
}

struct Filling<'a> {
    runs: Receiver<Run>,
    ready: IntoIter<TensorData>,
    sources: std::slice::Iter<'a, Source<'a>>,
    failure: Option<WeightsError>,
}

impl Filling<'_> {
    /// The tensor of the next parameter; `None` after a failure.
    fn next(&mut self) -> Option<(TensorData, bool)> {
        let source = self.sources.next()?;
        loop {
            if let Some(data) = self.ready.next() {
                return Some((data, source.transposed));
            }
            match self.runs.recv().ok()? {
                Ok(run) => self.ready = run.into_iter(),
                Err(failure) => self.failure = Some(failure),
            }
        }
    }
}

impl<B: Backend> ModuleMapper<B> for Filling<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        let Some((data, transposed)) = self.next() else {
            return param;
        };
        let tensor = upload(data, &param.lazy_device());
        let tensor = match transposed {
            true => tensor.swap_dims(D - 2, D - 1),
            false => tensor,
        };
        let id = param.id;
        param.transform_for_load(tensor, id)
    }
}
