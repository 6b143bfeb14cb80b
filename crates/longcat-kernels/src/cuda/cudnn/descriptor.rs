//! Descriptors of cuDNN's backend interface: objects with typed attributes.

use std::ffi::c_void;
use std::ptr;

use cudarc::cudnn::sys;
use sys::cudnnBackendAttributeName_t as Name;
use sys::cudnnBackendAttributeType_t as Type;

use crate::cuda::stream::say;

/// What an attribute may hold besides descriptors.
pub(super) trait Attribute {
    /// How cuDNN calls it.
    const TYPE: Type;
}

impl Attribute for i64 {
    const TYPE: Type = Type::CUDNN_TYPE_INT64;
}

impl Attribute for f32 {
    const TYPE: Type = Type::CUDNN_TYPE_FLOAT;
}

impl Attribute for *mut c_void {
    const TYPE: Type = Type::CUDNN_TYPE_VOID_PTR;
}

impl Attribute for sys::cudnnHandle_t {
    const TYPE: Type = Type::CUDNN_TYPE_HANDLE;
}

impl Attribute for sys::cudnnDataType_t {
    const TYPE: Type = Type::CUDNN_TYPE_DATA_TYPE;
}

impl Attribute for sys::cudnnConvolutionMode_t {
    const TYPE: Type = Type::CUDNN_TYPE_CONVOLUTION_MODE;
}

impl Attribute for sys::cudnnBackendHeurMode_t {
    const TYPE: Type = Type::CUDNN_TYPE_HEUR_MODE;
}

pub(super) struct Descriptor(sys::cudnnBackendDescriptor_t);

impl Descriptor {
    pub(super) fn new(kind: sys::cudnnBackendDescriptorType_t) -> Result<Self, String> {
        let mut raw = ptr::null_mut();
        // SAFETY: the library is open (its handle was made), and `raw` receives the object.
        unsafe { sys::cudnnBackendCreateDescriptor(kind, &mut raw) }
            .result()
            .map_err(|err| say("cudnnBackendCreateDescriptor", err))?;
        Ok(Self(raw))
    }

    /// Sets an attribute of other descriptors.
    pub(super) fn descriptors(self, name: Name, values: &[&Self]) -> Result<Self, String> {
        let raw: Vec<_> = values.iter().map(|value| value.0).collect();
        self.set_raw(name, Type::CUDNN_TYPE_BACKEND_DESCRIPTOR, &raw)
    }

    /// Sets any other attribute.
    pub(super) fn set<T: Attribute>(self, name: Name, values: &[T]) -> Result<Self, String> {
        self.set_raw(name, T::TYPE, values)
    }

    /// `T` must be what `kind` stands for.
    fn set_raw<T>(self, name: Name, kind: Type, values: &[T]) -> Result<Self, String> {
        // SAFETY: the object is alive, and `values` holds as many elements as are announced.
        unsafe {
            sys::cudnnBackendSetAttribute(
                self.0,
                name,
                kind,
                values.len() as i64,
                values.as_ptr().cast(),
            )
        }
        .result()
        .map_err(|err| say(&format!("{name:?}"), err))?;
        Ok(self)
    }

    pub(super) fn finish(self) -> Result<Self, String> {
        // SAFETY: the object is alive.
        unsafe { sys::cudnnBackendFinalize(self.0) }
            .result()
            .map_err(|err| say("cudnnBackendFinalize", err))?;
        Ok(self)
    }

    pub(super) fn integer(&self, name: Name) -> Result<i64, String> {
        let mut value = 0i64;
        self.get(
            name,
            Type::CUDNN_TYPE_INT64,
            1,
            ptr::from_mut(&mut value).cast(),
        )?;
        Ok(value)
    }

    /// Lets cuDNN fill `targets`, and keeps those that it filled.
    pub(super) fn fill(&self, name: Name, mut targets: Vec<Self>) -> Result<Vec<Self>, String> {
        let mut raw: Vec<_> = targets.iter().map(|target| target.0).collect();
        let filled = self.get(
            name,
            Type::CUDNN_TYPE_BACKEND_DESCRIPTOR,
            raw.len(),
            raw.as_mut_ptr().cast(),
        )?;
        targets.truncate(filled);
        Ok(targets)
    }

    fn get(&self, name: Name, kind: Type, room: usize, into: *mut c_void) -> Result<usize, String> {
        let mut count = 0i64;
        // SAFETY: the object is alive, and `into` has room for as many elements as are announced.
        unsafe { sys::cudnnBackendGetAttribute(self.0, name, kind, room as i64, &mut count, into) }
            .result()
            .map_err(|err| say(&format!("{name:?}"), err))?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    pub(super) fn raw(&self) -> sys::cudnnBackendDescriptor_t {
        self.0
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the object is alive and has no other owner. Nothing can be done about a failure.
        let _ = unsafe { sys::cudnnBackendDestroyDescriptor(self.0) };
    }
}
