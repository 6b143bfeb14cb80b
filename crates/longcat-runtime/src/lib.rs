//! LongCat-Video on a device that is chosen at run time.
//!
//! Generic code is compiled once per backend in this crate; programs on it call plain functions and
//! object-safe traits.
//!
//! ```
//! for device in longcat_runtime::devices() {
//!     println!("{}: {}", device.device, device.dtypes.join(", "));
//! }
//! println!("the best of them: {}", longcat_runtime::best_device());
//! ```

#[cfg(feature = "wgpu")]
mod adapters;
#[cfg(feature = "bench")]
pub mod bench;
mod cuda;
mod device;
mod device_list;
mod devices;
mod dispatch;
mod error;
mod gpu_runtime;
mod memory;
mod options;
mod pipeline;
mod train;

pub use cuda::{cublas_problem, cudnn_problem, set_cublas_enabled};
pub use device::{DeviceSpec, ParseDeviceError};
pub use device_list::{DeviceList, ParseDeviceListError};
pub use devices::{DeviceInfo, best_device, devices};
pub use dispatch::{DeviceTask, on_device};
pub use error::RuntimeError;
pub use gpu_runtime::set_up_gpu_runtime;
pub use memory::keep_freed_memory;
pub use options::RuntimeOptions;
pub use pipeline::{DynPipeline, open_pipeline};
pub use train::train_lora;

pub use burn::tensor::DType;
