//! The backend itself: `Flex` under another name, with a count of every call.
//!
//! Tensors are those of `Flex`, so an operation is one call and no conversion. What `Flex`
//! implements is delegated; what it leaves to Burn's default bodies is left to them here too.
//! Nothing in this folder knows of the models.

mod module_ops;
mod tensor_ops;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use burn_backend::{Backend, BackendTypes, DType, DTypeUsageSet, ExecutionError};
use burn_flex::{Flex, FlexDevice, FlexQTensor, FlexTensor};

/// Computes like `Flex` and counts the calls, see [`calls`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Traced;

static CALLS: Mutex<BTreeMap<&'static str, u64>> = Mutex::new(BTreeMap::new());

fn counts() -> MutexGuard<'static, BTreeMap<&'static str, u64>> {
    CALLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often each operation of [`Traced`] was called so far, in the whole process.
pub fn calls() -> BTreeMap<&'static str, u64> {
    counts().clone()
}

fn count(operation: &'static str) {
    *counts().entry(operation).or_default() += 1;
}

/// Writes methods that count themselves and call `Flex`: names in brackets, then the signature
/// that they share.
macro_rules! delegate {
    (@one $name:ident ($($arg:ident: $type:ty),*) -> $return:ty) => {
        fn $name($($arg: $type),*) -> $return {
            $crate::traced::count(stringify!($name));
            <burn_flex::Flex>::$name($($arg),*)
        }
    };
    ($([$($name:ident)+] $args:tt -> $return:ty;)*) => {
        $($(delegate! { @one $name $args -> $return })+)*
    };
}
use delegate;

impl BackendTypes for Traced {
    type Device = FlexDevice;
    type FloatTensorPrimitive = FlexTensor;
    type FloatElem = f32;
    type IntTensorPrimitive = FlexTensor;
    type IntElem = i32;
    type BoolTensorPrimitive = FlexTensor;
    type BoolElem = bool;
    type QuantizedTensorPrimitive = FlexQTensor;
}

impl Backend for Traced {
    fn name(_device: &FlexDevice) -> String {
        "traced".into()
    }

    fn seed(device: &FlexDevice, seed: u64) {
        Flex::seed(device, seed);
    }

    fn sync(device: &FlexDevice) -> Result<(), ExecutionError> {
        Flex::sync(device)
    }

    fn dtype_usage(device: &FlexDevice, dtype: DType) -> DTypeUsageSet {
        Flex::dtype_usage(device, dtype)
    }

    fn device_count(type_id: u16) -> usize {
        Flex::device_count(type_id)
    }
}
