//! Loading a transformer.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::tensor::{DType, TensorData};
use burn_flex::{Flex, FlexDevice};
use longcat_dit::{DitConfig, LongCatTransformer};
use longcat_kernels::KernelBackend;
use longcat_weights::{NamedTensor, write_atomic, write_safetensors};
use serde_json::json;

use super::network::Network;
use super::{Bench, BenchError, Report, measure};

/// Loading a transformer.
#[derive(Debug, Clone)]
pub struct Load {
    /// An official `dit/` directory. Where there is none, one with random weights of the preset and
    /// depth is written, in shards of four blocks; the released depth takes 27 GB.
    pub directory: PathBuf,
    /// The transformer.
    pub network: Network,
}

impl Load {
    /// Measures loading a transformer from the page cache (after the first run).
    ///
    /// # Errors
    /// [`BenchError`] for settings that cannot work, and when the device fails.
    pub fn run(&self, report: Report<'_>) -> Result<(), BenchError> {
        self.network.check()?;
        if !self.directory.exists() {
            write_checkpoint(&self.directory, &self.network)?;
        }
        measure(self.network.timing.device, self, report)
    }
}

impl Bench for Load {
    fn measure<B: KernelBackend>(
        &self,
        device: B::Device,
        report: Report<'_>,
    ) -> Result<(), BenchError> {
        let timing = &self.network.timing;
        let dtype = Some(timing.dtype());
        let times = timing.time::<B>(&device, || {
            LongCatTransformer::<B>::load(&self.directory, dtype, &device)?;
            Ok(())
        })?;
        let bytes = weight_bytes(&self.directory)?;
        let result = json!({
            "operation": "load", "device": timing.device.to_string(), "bytes": bytes,
            "first_milliseconds": times.first, "milliseconds": times.median,
            "gigabytes_per_second": bytes as f64 / times.median / 1e6,
            "memory_bytes": timing.memory_taken(),
        });
        report(result);
        Ok(())
    }
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> BenchError + use<> {
    let path = path.to_path_buf();
    |cause| BenchError::Io { path, cause }
}

fn weight_bytes(directory: &Path) -> Result<u64, BenchError> {
    let mut bytes = 0;
    for entry in fs::read_dir(directory).map_err(io(directory))? {
        let entry = entry.map_err(io(directory))?;
        let path = entry.path();
        if path
            .extension()
            .is_some_and(|e| e == "safetensors" || e == "gguf")
        {
            bytes += entry.metadata().map_err(io(directory))?.len();
        }
    }
    Ok(bytes)
}

/// Random bf16 weights in the official layout. All blocks hold the same values, which nothing that
/// is measured depends on, so that a full-size checkpoint is written in seconds.
fn write_checkpoint(directory: &Path, network: &Network) -> Result<(), BenchError> {
    const BLOCKS_PER_SHARD: usize = 4;
    let started = Instant::now();
    let config = network.config();
    let one = DitConfig {
        depth: 1,
        ..config.clone()
    };
    let model = LongCatTransformer::<Flex>::new(&one, &FlexDevice);
    let tensors = longcat_dit::official_tensors::<Flex>(&model)?;
    drop(model);
    let to_bf16 = |data: TensorData| data.convert_dtype(DType::BF16);
    let (blocks, rest): (Vec<_>, Vec<_>) = tensors
        .into_iter()
        .map(|tensor| NamedTensor {
            name: tensor.name,
            data: to_bf16(tensor.data),
        })
        .partition(|tensor| tensor.name.starts_with("blocks.0."));
    if blocks.is_empty() {
        return Err(BenchError::Setting(
            "the transformer has no tensors named blocks.0.*",
        ));
    }
    fs::create_dir_all(directory).map_err(io(directory))?;
    let shards = config.depth.div_ceil(BLOCKS_PER_SHARD) + 1;
    let mut map = BTreeMap::new();
    let mut write = |index: usize, tensors: &[NamedTensor]| -> Result<(), BenchError> {
        let file = format!(
            "diffusion_pytorch_model-{:05}-of-{shards:05}.safetensors",
            index + 1
        );
        map.extend(tensors.iter().map(|t| (t.name.clone(), file.clone())));
        Ok(write_safetensors(
            &directory.join(&file),
            tensors,
            &BTreeMap::new(),
        )?)
    };
    for shard in 0..shards - 1 {
        let first = shard * BLOCKS_PER_SHARD;
        let tensors: Vec<NamedTensor> = (first..(first + BLOCKS_PER_SHARD).min(config.depth))
            .flat_map(|block| {
                blocks.iter().map(move |tensor| NamedTensor {
                    name: tensor
                        .name
                        .replacen("blocks.0.", &format!("blocks.{block}."), 1),
                    data: tensor.data.clone(),
                })
            })
            .collect();
        write(shard, &tensors)?;
    }
    write(shards - 1, &rest)?;
    let index = json!({"metadata": {}, "weight_map": map});
    write_atomic(
        &directory.join("diffusion_pytorch_model.safetensors.index.json"),
        index.to_string().as_bytes(),
    )?;
    write_atomic(
        &directory.join("config.json"),
        serde_json::to_string_pretty(&config)?.as_bytes(),
    )?;
    eprintln!("wrote {} in {:.0?}", directory.display(), started.elapsed());
    Ok(())
}
