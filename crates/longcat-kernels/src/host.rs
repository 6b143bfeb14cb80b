//! Bytes in host memory that devices copy from while they compute.

use std::any::Any;
use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;
#[cfg(feature = "cuda")]
use std::sync::OnceLock;

use burn::tensor::{DType, backend::Backend};
use burn_backend::tensor::FloatTensor;

#[cfg(feature = "cuda")]
use crate::cuda::page_lock::PageLock;

/// Host memory that weights lie in: a mapped file, or what was computed from one.
///
/// The first copy to a CUDA device locks its pages, where the host has room for that: from then on
/// copies run beside the device's computing, at the speed of the bus.
pub struct HostMemory {
    /// Before the bytes, which must outlive it.
    #[cfg(feature = "cuda")]
    pub(crate) lock: OnceLock<Option<PageLock>>,
    bytes: Box<dyn AsRef<[u8]> + Send + Sync>,
}

impl HostMemory {
    /// `bytes` gives the same slice every time.
    pub fn new(bytes: impl AsRef<[u8]> + Send + Sync + 'static) -> Self {
        Self {
            #[cfg(feature = "cuda")]
            lock: OnceLock::new(),
            bytes: Box::new(bytes),
        }
    }

    /// All of it.
    pub fn bytes(&self) -> &[u8] {
        (*self.bytes).as_ref()
    }
}

impl fmt::Debug for HostMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostMemory({} bytes)", self.bytes().len())
    }
}

/// A part of a [`HostMemory`], which it keeps.
#[derive(Clone)]
pub struct HostBytes {
    memory: Arc<HostMemory>,
    range: Range<usize>,
}

impl HostBytes {
    /// A part of `memory`.
    ///
    /// # Panics
    /// If it has no such part.
    pub fn new(memory: &Arc<HostMemory>, range: Range<usize>) -> Self {
        assert!(
            range.start <= range.end && range.end <= memory.bytes().len(),
            "{memory:?} has no part {range:?}"
        );
        Self {
            memory: memory.clone(),
            range,
        }
    }

    /// The memory that they are a part of.
    #[cfg(feature = "cuda")]
    pub(crate) fn memory(&self) -> &HostMemory {
        &self.memory
    }
}

impl From<Vec<u8>> for HostBytes {
    fn from(bytes: Vec<u8>) -> Self {
        let range = 0..bytes.len();
        Self {
            memory: Arc::new(HostMemory::new(bytes)),
            range,
        }
    }
}

impl Deref for HostBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory.bytes()[self.range.clone()]
    }
}

impl fmt::Debug for HostBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostBytes({} bytes)", self.len())
    }
}

/// A row of floats in host memory (little endian).
#[derive(Debug, Clone)]
pub struct HostRow {
    /// Its bytes.
    pub bytes: HostBytes,
    /// Their type.
    pub dtype: DType,
}

/// Rows on their way to a device, see [`KernelDevice::begin_uploads`](crate::KernelDevice::begin_uploads).
#[derive(Debug)]
pub struct Uploads<B: Backend> {
    /// One row each, in order. They may be used after [`await_uploads`] only.
    ///
    /// [`await_uploads`]: crate::KernelDevice::await_uploads
    pub rows: Vec<FloatTensor<B>>,
    /// What is to be waited for.
    pub ticket: UploadTicket,
}

/// What a device is to wait for before it uses rows that were uploaded together.
#[derive(Clone, Default)]
pub struct UploadTicket(Option<Arc<dyn Any + Send + Sync>>);

impl UploadTicket {
    /// A ticket for [`await_uploads`](crate::KernelDevice::await_uploads) of the backend that made it.
    /// The default is that of rows which have arrived.
    pub fn new(pending: Arc<dyn Any + Send + Sync>) -> Self {
        Self(Some(pending))
    }

    /// Whether there is nothing to wait for.
    pub fn is_done(&self) -> bool {
        self.0.is_none()
    }

    /// Whether both are of the same uploads.
    pub fn is_same(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// What it was made of, for the backend that knows the type.
    pub fn pending<T: 'static>(&self) -> Option<&T> {
        self.0.as_deref()?.downcast_ref()
    }
}

impl fmt::Debug for UploadTicket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.is_done() { "done" } else { "pending" };
        write!(f, "UploadTicket({name})")
    }
}
