//! 3D rotary position embedding: tables for a grid of tokens, and a cache of them.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{
    AutodiffModule, Content, Devices, EmptyRecord, Module, ModuleDisplay, ModuleDisplayDefault,
    ModuleMapper, ModuleVisitor,
};

use burn::tensor::backend::{AutodiffBackend, Backend};
use burn::tensor::{DType, Tensor, TensorData};
use longcat_kernels::{KernelBackend, Rotation, split_heads};

const BASE: f64 = 10_000.0;

/// Cosines and sines of the 3D rotary embedding of one token grid.
///
/// Channel order is t|h|w with `dim_h = dim_w = 2·(D // 6)` and `dim_t` the rest; pairs of channels
/// are interleaved; positions are integers from 0. Source: `rope_3d.py` of the official code.
#[derive(Debug, Clone)]
pub struct RopeTables<B: Backend> {
    cos: Tensor<B, 2>,
    sin: Tensor<B, 2>,
}

impl<B: Backend> RopeTables<B> {
    /// Tables for a grid of (T, H, W) tokens and heads of `head_dim` channels.
    pub(crate) fn new(grid: [usize; 3], head_dim: usize, device: &B::Device) -> Self {
        let spatial = 2 * (head_dim / 6);
        let dims = [head_dim - 2 * spatial, spatial, spatial];
        let frequencies: Vec<Vec<f32>> = dims
            .iter()
            .map(|dim| {
                (0..dim / 2)
                    .map(|i| (1.0 / BASE.powf(2.0 * i as f64 / *dim as f64)) as f32)
                    .collect()
            })
            .collect();
        let tokens = grid.iter().product::<usize>();
        let mut angles = Vec::with_capacity(tokens * head_dim / 2);
        for t in 0..grid[0] {
            for h in 0..grid[1] {
                for w in 0..grid[2] {
                    for (position, frequencies) in [t, h, w].iter().zip(&frequencies) {
                        angles.extend(frequencies.iter().map(|f| *position as f32 * f));
                    }
                }
            }
        }
        let table = |function: fn(f32) -> f32| {
            let values: Vec<f32> = angles.iter().map(|a| function(*a)).collect();
            let data = TensorData::new(values, [tokens, head_dim / 2]);
            Tensor::from_data(data, (device, DType::F32))
        };
        Self {
            cos: table(f32::cos),
            sin: table(f32::sin),
        }
    }

    /// The tables of some of the tokens.
    pub(crate) fn part(&self, tokens: Range<usize>) -> Self {
        let cut = |table: &Tensor<B, 2>| table.clone().slice([tokens.clone()]);
        Self {
            cos: cut(&self.cos),
            sin: cut(&self.sin),
        }
    }

    /// The tables as the kernels take them.
    pub(crate) fn rotation(&self) -> Rotation<B> {
        Rotation {
            cos: self.cos.clone(),
            sin: self.sin.clone(),
        }
    }
}

impl<B: KernelBackend> RopeTables<B> {
    /// Rotates `x` `[B, heads, N, D]` in fp32; the result has the dtype of `x`.
    pub(crate) fn apply(&self, x: Tensor<B, 4>) -> Tensor<B, 4> {
        // The layout that fused heads have before they are split, with a single part.
        let x = x.swap_dims(1, 2).unsqueeze_dim::<5>(2);
        split_heads(x, 0, None, Some(self.rotation()))
    }
}

type TablesByGrid<B> = HashMap<
    [usize; 3],
    (
        <B as burn::tensor::backend::BackendTypes>::Device,
        RopeTables<B>,
    ),
>;

/// Keeps the tables of the grids seen so far, so that each is computed once.
///
/// Part of the module tree without parameters or state of its own.
#[derive(Debug, Clone)]
pub(crate) struct RopeCache<B: Backend> {
    tables: Arc<Mutex<TablesByGrid<B>>>,
}

impl<B: Backend> Default for RopeCache<B> {
    fn default() -> Self {
        Self {
            tables: Arc::default(),
        }
    }
}

impl<B: Backend> RopeCache<B> {
    /// The tables of `grid`, computed at its first use on `device`.
    pub(crate) fn get(
        &self,
        grid: [usize; 3],
        head_dim: usize,
        device: &B::Device,
    ) -> RopeTables<B> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        match tables.get(&grid) {
            Some((owner, found)) if owner == device => found.clone(),
            _ => {
                let made = RopeTables::new(grid, head_dim, device);
                tables.insert(grid, (device.clone(), made.clone()));
                made
            }
        }
    }
}

impl<B: Backend> Module<B> for RopeCache<B> {
    type Record = EmptyRecord;

    fn visit<V: ModuleVisitor<B>>(&self, _visitor: &mut V) {}

    fn map<M: ModuleMapper<B>>(self, _mapper: &mut M) -> Self {
        self
    }

    fn load_record(self, _record: Self::Record) -> Self {
        self
    }

    fn into_record(self) -> Self::Record {
        EmptyRecord::new()
    }

    fn to_device(self, _device: &B::Device) -> Self {
        self
    }

    fn fork(self, _device: &B::Device) -> Self {
        self
    }

    fn collect_devices(&self, devices: Devices<B>) -> Devices<B> {
        devices
    }
}

impl<B: AutodiffBackend> AutodiffModule<B> for RopeCache<B> {
    type InnerModule = RopeCache<B::InnerBackend>;

    fn valid(&self) -> Self::InnerModule {
        RopeCache::default()
    }

    fn from_inner(_module: Self::InnerModule) -> Self {
        RopeCache::default()
    }
}

impl<B: Backend> ModuleDisplayDefault for RopeCache<B> {
    fn content(&self, content: Content) -> Option<Content> {
        content.add_single(&"RopeCache".to_string()).optional()
    }
}

impl<B: Backend> ModuleDisplay for RopeCache<B> {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use burn_flex::Flex;

    /// The rotation written as complex multiplication, token by token.
    #[test]
    fn tables_rotate_pairs_by_position_times_frequency() {
        let (grid, d) = ([2usize, 3, 2], 32usize);
        let device = Default::default();
        let n = grid.iter().product::<usize>();
        let values: Vec<f32> = (0..n * d).map(|i| (i as f32 * 0.37).sin()).collect();
        let x =
            Tensor::<Flex, 4>::from_data(TensorData::new(values.clone(), [1, 1, n, d]), &device);
        let out = RopeTables::new(grid, d, &device).apply(x);
        let out = out.to_data().to_vec::<f32>().unwrap();
        let (dh, dt) = (2 * (d / 6), d - 4 * (d / 6));
        for token in 0..n {
            let (t, h, w) = (token / 6, token / 2 % 3, token % 2);
            for pair in 0..d / 2 {
                let c = 2 * pair;
                let (position, offset, width) = match c {
                    c if c < dt => (t, 0, dt),
                    c if c < dt + dh => (h, dt, dh),
                    _ => (w, dt + dh, dh),
                };
                let angle = position as f64 / 1e4f64.powf((c - offset) as f64 / width as f64);
                let (re, im) = (
                    values[token * d + c] as f64,
                    values[token * d + c + 1] as f64,
                );
                let expected = [
                    re * angle.cos() - im * angle.sin(),
                    re * angle.sin() + im * angle.cos(),
                ];
                for (i, e) in expected.iter().enumerate() {
                    assert!((out[token * d + c + i] as f64 - e).abs() < 1e-5);
                }
            }
        }
    }
}
