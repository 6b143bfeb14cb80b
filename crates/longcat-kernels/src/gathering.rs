//! Heads that are put together from parts on several devices, beside what these compute.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use burn::tensor::{DType, Tensor, backend::Backend};
use burn_backend::tensor::FloatTensor;

use crate::KernelDevice;
use crate::portable::into_float;

/// A part of one tensor of heads `[B, H, N, D]`, and where it goes in another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartCopy {
    /// The tensor that it is a part of, among those that are sent together.
    pub source: usize,
    /// The tensor that it becomes a part of.
    pub target: usize,
    /// Its heads.
    pub heads: Range<usize>,
    /// Its tokens.
    pub tokens: Range<usize>,
    /// Its first head and its first token there.
    pub place: [usize; 2],
}

/// Copies that are begun together, see [`KernelDevice::copies_aside`].
#[derive(Debug)]
pub struct PartCopies<B: Backend> {
    /// Tensors `[B, H, N, D]`, of one dtype.
    pub sources: Vec<FloatTensor<B>>,
    /// What they are written to in place: rows of that dtype, which nothing else refers to but who waits for
    /// the copies, and the shapes that these rows are to have.
    pub targets: Vec<(FloatTensor<B>, [usize; 4])>,
    /// Which parts go where; inside of both tensors.
    pub parts: Vec<PartCopy>,
}

/// Lets all devices wait for copies before they do what they are given from then on. Nothing waits on the
/// host.
pub type AwaitCopies = Box<dyn FnOnce() + Send>;

/// Begins copies.
pub type BeginCopies<B> = Box<dyn Fn(PartCopies<B>) -> AwaitCopies>;

/// Tensors of heads `[B, H, N, D]` that are put together from parts of others, which may be on other
/// devices.
///
/// Parts that are sent are on their way at once where the devices can do that beside what they are given
/// afterwards (CUDA devices that reach each other's memory), and go straight to their places. Elsewhere each is
/// moved behind what was queued, and they are joined in the end.
pub struct Gathering<B: KernelDevice> {
    targets: Vec<(B::Device, [usize; 4])>,
    way: Way<B>,
}

enum Way<B: KernelDevice> {
    Aside {
        begin: BeginCopies<B>,
        rows: Vec<Tensor<B, 1>>,
        pending: Vec<AwaitCopies>,
    },
    /// By target, then by head and by token of their places.
    InTurn(Vec<BTreeMap<[usize; 2], Tensor<B, 4>>>),
}

impl<B: KernelDevice> fmt::Debug for Gathering<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gathering")
            .field("targets", &self.targets)
            .finish_non_exhaustive()
    }
}

impl<B: KernelDevice> Gathering<B> {
    /// Tensors of these shapes on these devices. What they are gathered from is on the same devices.
    pub fn new(targets: Vec<(B::Device, [usize; 4])>, dtype: DType) -> Self {
        let devices: Vec<B::Device> = targets.iter().map(|(device, _)| device.clone()).collect();
        let way = match B::copies_aside(&devices) {
            Some(begin) => {
                // Rows have no gaps in memory.
                let rows = targets.iter().map(|(device, shape)| {
                    Tensor::empty([shape.iter().product::<usize>()], (device, dtype))
                });
                Way::Aside {
                    begin,
                    rows: rows.collect(),
                    pending: Vec::new(),
                }
            }
            None => Way::InTurn(targets.iter().map(|_| BTreeMap::new()).collect()),
        };
        Self { targets, way }
    }

    /// Sends parts of tensors. All parts that are ever sent must fill the targets, each place once.
    ///
    /// # Panics
    /// If a part is not inside of its tensor or its place not inside of its target.
    pub fn send(&mut self, sources: Vec<Tensor<B, 4>>, parts: Vec<PartCopy>) {
        for part in &parts {
            let [samples, heads, tokens, width] = sources[part.source].dims();
            let (_, target) = &self.targets[part.target];
            let [head, token] = part.place;
            assert!(
                [samples, width] == [target[0], target[3]]
                    && part.heads.end <= heads
                    && part.tokens.end <= tokens
                    && head + part.heads.len() <= target[1]
                    && token + part.tokens.len() <= target[2],
                "{part:?} of {:?} for {target:?}",
                sources[part.source].dims()
            );
        }
        match &mut self.way {
            Way::Aside {
                begin,
                rows,
                pending,
            } => {
                let rows = rows.iter().cloned().map(into_float);
                let shapes = self.targets.iter().map(|(_, shape)| *shape);
                pending.push(begin(PartCopies {
                    sources: sources.into_iter().map(into_float).collect(),
                    targets: rows.zip(shapes).collect(),
                    parts,
                }));
            }
            Way::InTurn(all) => {
                for part in parts {
                    let moved = narrowed(sources[part.source].clone(), 1, part.heads);
                    let moved = narrowed(moved, 2, part.tokens);
                    let moved = transfer(moved, &self.targets[part.target].0);
                    all[part.target].insert(part.place, moved);
                }
            }
        }
    }

    /// The tensors, for use behind what their devices were given so far.
    ///
    /// # Panics
    /// If nothing was sent to one of them, as far as that is noticed.
    pub fn finish(self) -> Vec<Tensor<B, 4>> {
        match self.way {
            Way::Aside { rows, pending, .. } => {
                pending.into_iter().for_each(|wait| wait());
                let shapes = self.targets.into_iter().map(|(_, shape)| shape);
                let rows = rows.into_iter().zip(shapes);
                rows.map(|(row, shape)| row.reshape(shape)).collect()
            }
            Way::InTurn(all) => all.into_iter().map(joined_heads).collect(),
        }
    }
}

/// Parts by the head and the token where they begin, as one tensor.
fn joined_heads<B: Backend>(parts: BTreeMap<[usize; 2], Tensor<B, 4>>) -> Tensor<B, 4> {
    let mut of_heads = BTreeMap::<usize, Vec<Tensor<B, 4>>>::new();
    for ([head, _], part) in parts {
        of_heads.entry(head).or_default().push(part);
    }
    let of_heads = of_heads.into_values();
    joined(of_heads.map(|parts| joined(parts, 2)).collect(), 1)
}

fn joined<B: Backend>(mut parts: Vec<Tensor<B, 4>>, dim: usize) -> Tensor<B, 4> {
    match parts.len() {
        1 => parts.remove(0),
        _ => Tensor::cat(parts, dim),
    }
}

fn narrowed<B: Backend>(x: Tensor<B, 4>, dim: usize, range: Range<usize>) -> Tensor<B, 4> {
    match range.len() == x.dims()[dim] {
        true => x,
        false => x.narrow(dim, range.start, range.len()),
    }
}

/// Moves a tensor to another device, behind all that was queued on both, and before all that will
/// be. Nothing waits on the host.
pub fn transfer<B: KernelDevice, const D: usize>(
    x: Tensor<B, D>,
    device: &B::Device,
) -> Tensor<B, D> {
    let from = x.device();
    if from == *device {
        return x;
    }
    let order = || [&from, device].into_iter().for_each(B::order_transfers);
    order();
    let moved = x.to_device(device);
    order();
    moved
}
