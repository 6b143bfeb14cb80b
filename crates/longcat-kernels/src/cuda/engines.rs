//! Code that is not cubecl's, on cubecl's devices: one engine per device, used on its thread.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use burn_cubecl::tensor::CubeTensor;
use cubecl::cuda::CudaRuntime;
use cubecl::device::Device;
use cubecl::server::{Binding, ComputeServer};
use cubecl::stream_id::StreamId;

use crate::DeviceFault;
use crate::cube::watch;
use crate::cuda::stream::{Server, device_thread, lock, say};
use crate::cuda::theirs;

/// What is set up once per device. Handles may be used from any thread, one at a time.
pub(crate) trait Engine: Send + Sized + 'static {
    /// Sets up device `index`, whose context must be current on this thread.
    fn open(index: usize) -> Result<Self, String>;
}

/// By device index, or why there is none. Each has a lock of its own, which is held while its device takes work:
/// that of a device that has much to do waits, and what a group of devices does together waits for all of them.
type ByDevice<E> = BTreeMap<usize, Result<Arc<Mutex<E>>, String>>;

/// The engines of one kind.
pub(crate) struct Engines<E> {
    by_device: Mutex<ByDevice<E>>,
    /// Why work that was accepted did not run. Its output holds garbage, so the next call panics.
    failure: Mutex<Option<String>>,
    /// What failed then, in words.
    what: &'static str,
    /// The environment variable that does without, if one does.
    switch: Option<&'static str>,
}

impl<E: Engine> Engines<E> {
    pub(crate) const fn new(what: &'static str, switch: &'static str) -> Self {
        Self::known_as(what, Some(switch))
    }

    /// Engines that nothing does without.
    pub(crate) const fn required(what: &'static str) -> Self {
        Self::known_as(what, None)
    }

    const fn known_as(what: &'static str, switch: Option<&'static str>) -> Self {
        Self {
            by_device: Mutex::new(BTreeMap::new()),
            failure: Mutex::new(None),
            what,
            switch,
        }
    }

    /// Why a device has no engine, if one that was asked for has none.
    pub(crate) fn refusal(&self) -> Option<String> {
        let engines = self.engines();
        engines
            .values()
            .find_map(|engine| engine.as_ref().err().cloned())
    }

    /// Whether a device does something: what its engine knows of it, or else finds out.
    pub(crate) fn is_ready(
        &'static self,
        index: usize,
        known: impl FnOnce(&E) -> Option<bool>,
        prepare: impl FnOnce(&mut E) -> bool + Send + 'static,
    ) -> bool {
        let engine = self.engines().get(&index).cloned();
        match engine {
            Some(Err(_)) => return false,
            Some(Ok(engine)) => {
                let known = known(&lock(&engine));
                if let Some(known) = known {
                    return known;
                }
            }
            None => {}
        }
        // On the thread that owns the device, where its context is current.
        device_thread(index)
            .submit_blocking(move |_| {
                let open = || E::open(index).map(|engine| Arc::new(Mutex::new(engine)));
                let engine = self.engines().entry(index).or_insert_with(open).clone();
                engine.is_ok_and(|engine| {
                    let mut engine = lock(&engine);
                    prepare(&mut engine)
                })
            })
            .unwrap_or(false)
    }

    /// Queues `work` on the thread of the tensors' device, where its context is current, after
    /// whatever this thread queued there before. It gets the addresses of the tensors.
    ///
    /// # Panics
    /// If earlier work failed.
    pub(crate) fn submit<const N: usize>(
        &'static self,
        tensors: [&CubeTensor<CudaRuntime>; N],
        work: impl FnOnce(&E, [u64; N]) -> Result<(), String> + Send + 'static,
    ) {
        self.submit_to(tensors[0].device.index, tensors, work);
    }

    /// As [`Self::submit`], on a device that no tensor needs to name.
    pub(crate) fn submit_to<const N: usize>(
        &'static self,
        index: usize,
        tensors: [&CubeTensor<CudaRuntime>; N],
        work: impl FnOnce(&E, [u64; N]) -> Result<(), String> + Send + 'static,
    ) {
        self.check();
        let bindings = bindings(&tensors);
        device_thread(index).submit(move |server| {
            let work = |engine: &E, addresses: &[u64]| {
                work(engine, std::array::from_fn(|at| addresses[at]))
            };
            if let Err(failure) = self.run(server, index, bindings, work) {
                self.fail(index, failure);
            }
        });
    }

    /// As [`Self::submit_to`] with any number of tensors; waits until `work` was done on the device's thread,
    /// for what it returns.
    ///
    /// # Panics
    /// If `work` or earlier work failed.
    pub(crate) fn ask<T: Send + 'static>(
        &'static self,
        index: usize,
        tensors: &[&CubeTensor<CudaRuntime>],
        work: impl FnOnce(&E, &[u64]) -> Result<T, String> + Send + 'static,
    ) -> T {
        self.check();
        let bindings = bindings(tensors);
        let answer = device_thread(index)
            .submit_blocking(move |server| self.run(server, index, bindings, work))
            .unwrap_or_else(|err| Err(say("device thread", err)));
        answer.unwrap_or_else(|failure| {
            self.fail(index, failure.clone());
            panic!("{}", self.words(&failure))
        })
    }

    /// Keeps that a device did not do what it was to do: nothing that it makes is used from now on.
    pub(crate) fn fail(&self, index: usize, failure: String) {
        watch::keep(
            cubecl::cuda::CudaDevice::new(index).to_id(),
            DeviceFault::new(&self.words(&failure)),
        );
        *lock(&self.failure) = Some(failure);
    }

    /// Goes on only if nothing failed.
    ///
    /// # Panics
    /// If earlier work failed.
    pub(crate) fn check(&self) {
        if let Some(failure) = lock(&self.failure).as_ref() {
            panic!("{}", self.words(failure));
        }
    }

    fn words(&self, failure: &str) -> String {
        let help = self.switch.map(|switch| format!("; {switch}=1 avoids it"));
        format!(
            "{} failed: {failure}{}",
            self.what,
            help.unwrap_or_default()
        )
    }

    fn run<T>(
        &self,
        server: &mut Server,
        index: usize,
        bindings: Vec<Binding>,
        work: impl FnOnce(&E, &[u64]) -> Result<T, String>,
    ) -> Result<T, String> {
        let stream = StreamId::current();
        let users: Vec<StreamId> = bindings.iter().map(|binding| binding.stream).collect();
        let mut addresses = Vec::with_capacity(bindings.len());
        for binding in bindings {
            // Asking for a buffer also makes the device's context current on this thread.
            let resource = server.get_resource(binding, stream);
            let resource = resource.map_err(|err| format!("{err:?}"))?;
            addresses.push(resource.resource().ptr);
        }
        // Asking for a buffer makes the streams of its owner and of who asks, where there are none.
        if !users.is_empty() {
            theirs::note(server, index, users.into_iter().chain([stream]));
        }
        match self.engine(index) {
            Some(engine) => {
                let engine = lock(&engine);
                work(&engine, &addresses)
            }
            None => Err(format!("device {index} has no engine")),
        }
    }

    /// What `look` makes of a device's engine, if it has one.
    pub(crate) fn with<T>(&self, index: usize, look: impl FnOnce(&E) -> T) -> Option<T> {
        let engine = self.engine(index)?;
        let engine = lock(&engine);
        Some(look(&engine))
    }

    fn engine(&self, index: usize) -> Option<Arc<Mutex<E>>> {
        let engines = self.engines();
        engines.get(&index)?.as_ref().ok().cloned()
    }

    fn engines(&self) -> MutexGuard<'_, ByDevice<E>> {
        lock(&self.by_device)
    }
}

fn bindings(tensors: &[&CubeTensor<CudaRuntime>]) -> Vec<Binding> {
    let tensors = tensors.iter();
    tensors.map(|x| x.handle.clone().binding()).collect()
}
