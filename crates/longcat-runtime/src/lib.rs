//! LongCat-Video on a device that is chosen at run time.
//!
//! Generic code is compiled once per backend in this crate; programs on it call plain functions and
//! object-safe traits.
//!
//! A video from a prompt:
//!
//! ```no_run
//! use longcat_runtime::{DeviceList, RuntimeOptions, best_device, open_pipeline};
//! use longcat_video::{SeededNoise, Silent, TextToVideoRequest};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let devices = DeviceList::from(best_device());
//! let model = "weights/LongCat-Video";
//! let mut pipeline = open_pipeline(&devices, model, &RuntimeOptions::default())?;
//! let request = TextToVideoRequest::new("a red circle moves right");
//! let latents = pipeline.text_to_video(&request, &mut SeededNoise::new(0), &mut Silent)?;
//! let videos = pipeline.decode(&latents, &mut Silent)?;
//! println!("{} frames", videos[0].len());
//! # Ok(())
//! # }
//! ```
//!
//! The devices of this machine:
//!
//! ```
//! let devices = longcat_runtime::devices();
//! for device in &devices {
//!     println!("{}: {}", device.device, device.dtypes.join(", "));
//! }
//! assert!(devices.iter().any(|device| device.device == "cpu"));
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
mod inspect;
mod memory;
mod options;
mod pipeline;
mod train;

pub use cuda::{cublas_problem, cudnn_problem, kernel_problem, peers_problem, set_cublas_enabled};
pub use device::{DeviceSpec, ParseDeviceError};
pub use device_list::{DeviceList, ParseDeviceListError};
pub use devices::{DeviceInfo, best_device, device_of_rank, devices};
pub use dispatch::{DeviceTask, on_device};
pub use error::RuntimeError;
pub use gpu_runtime::set_up_gpu_runtime;
pub use inspect::inspect_weights;
pub use memory::keep_freed_memory;
pub use options::RuntimeOptions;
pub use pipeline::{DynPipeline, open_pipeline};
pub use train::{plan_training, train_lora, train_lora_on_ranks};

pub use burn::tensor::DType;
