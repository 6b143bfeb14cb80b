//! wgpu devices that are opened here, so that their queue is at hand: uploads go through memory that stays
//! mapped, from the threads that ask for them.
//!
//! cubecl 0.10 copies what it uploads three times. The last copy, on the one thread that owns the device, goes
//! to a buffer that wgpu asks the driver for and gives back again, tensor by tensor: 0.25 GB/s on an H200.

mod staging;
mod upload;

use std::collections::BTreeMap;
use std::panic::catch_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn_wgpu::graphics::AutoGraphicsApi;
use burn_wgpu::{RuntimeOptions, WgpuDevice, WgpuSetup, init_setup};
use cubecl::device::Device;

use staging::Staging;
pub(crate) use upload::try_upload;

/// A device, by its kind and index.
type Id = (u16, u16);

/// The devices that were opened; `None` where their queue could not be had.
static OPENED: Mutex<BTreeMap<Id, Option<Arc<Staging>>>> = Mutex::new(BTreeMap::new());

/// Opens a wgpu device, so that weights are uploaded to it by several threads at once.
///
/// Call it before anything runs on the device; later calls change nothing. Without it, and where the
/// environment variable `LONGCAT_NO_STAGING` is set, everything works as well, and loading is slower. Devices
/// that were made of a setup of your own are for [`adopt_wgpu_device`].
pub fn open_wgpu_device(device: &WgpuDevice) {
    if matches!(device, WgpuDevice::Existing(_)) || is_switched_off() {
        return;
    }
    // Held while the device is opened, which happens once.
    lock().entry(id_of(device)).or_insert_with(|| {
        // cubecl panics where the device is in use already.
        let setup =
            catch_unwind(|| init_setup::<AutoGraphicsApi>(device, RuntimeOptions::default()));
        setup.ok().map(|setup| Arc::new(Staging::new(&setup)))
    });
}

/// As [`open_wgpu_device`], for a device that `burn_wgpu::init_device` made of `setup`.
pub fn adopt_wgpu_device(device: &WgpuDevice, setup: &WgpuSetup) {
    if !is_switched_off() {
        let staging = || Some(Arc::new(Staging::new(setup)));
        lock().entry(id_of(device)).or_insert_with(staging);
    }
}

/// What uploads to a device go through, if it was opened here.
fn staging_of(device: &WgpuDevice) -> Option<Arc<Staging>> {
    lock().get(&id_of(device)).cloned().flatten()
}

fn id_of(device: &WgpuDevice) -> Id {
    let id = device.to_id();
    (id.type_id, id.index_id)
}

fn is_switched_off() -> bool {
    std::env::var_os("LONGCAT_NO_STAGING").is_some()
}

fn lock() -> MutexGuard<'static, BTreeMap<Id, Option<Arc<Staging>>>> {
    OPENED.lock().unwrap_or_else(PoisonError::into_inner)
}
