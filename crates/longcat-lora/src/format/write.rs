//! Adapters to files of each format.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Bytes, DType, TensorData};
use longcat_weights::{NamedTensor, WeightsError, write_atomic, write_safetensors};

use super::Format;
use super::config::{HEADER_KEY, Settings};
use super::layout::{self, HINT_KEY, Piece};
use super::patches;
use crate::{Adapter, LoraError, Matrix, TargetTable};

/// How an adapter is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteOptions {
    /// The dialect.
    pub format: Format,
    /// Write fused layers by their parts, under the split names of the target table. Without it
    /// that happens only for formats whose readers know the parts and not the layer. The official
    /// format never does.
    pub split: bool,
}

impl Adapter {
    /// Writes the adapter with all its numbers unchanged: a file, or for PEFT a directory with
    /// `adapter_model.safetensors` and `adapter_config.json`. Files are replaced atomically.
    ///
    /// # Errors
    /// [`LoraError::NotExpressible`] where the format cannot hold the numbers as they are, or no
    /// reader of it knows a kind of change; [`LoraError::File`] when writing fails.
    pub fn write(
        &self,
        path: &Path,
        table: &TargetTable,
        options: WriteOptions,
    ) -> Result<(), LoraError> {
        let format = options.format;
        let mut pieces = Vec::new();
        for (target, blocks) in self.targets() {
            pieces.extend(layout::pieces(
                target,
                blocks,
                table,
                format,
                options.split,
            )?);
        }
        if format == Format::DiffSynth {
            pieces = pieces
                .into_iter()
                .map(without_scale)
                .collect::<Result<_, _>>()?;
        }
        let mut metadata = self.metadata.clone();
        let hints: BTreeMap<&str, usize> = pieces
            .iter()
            .filter_map(|p| Some((p.target.as_str(), p.hint?)))
            .collect();
        if !hints.is_empty() {
            metadata.insert(HINT_KEY.into(), json_text(&hints)?);
        }
        let more = patches::tensors(self, table, format)?;
        let pieces = Pieces {
            list: pieces,
            more,
            table,
        };
        match format {
            Format::Official => official(path, &pieces, &metadata),
            Format::Peft => peft(path, &pieces, metadata),
            Format::Diffusers => {
                metadata.insert("format".into(), "pt".into());
                let settings = settings(&pieces.list, format)?;
                metadata.insert(HEADER_KEY.into(), settings.to_header());
                let tensors = pieces.ab("transformer.", ".lora_A.weight", ".lora_B.weight");
                Ok(write_safetensors(path, &tensors, &metadata)?)
            }
            Format::ComfyUi => {
                let prefix = "diffusion_model.";
                let mut tensors = pieces.ab(prefix, ".lora_A.weight", ".lora_B.weight");
                tensors.extend(pieces.alphas(|name| format!("{prefix}{name}.alpha"), format)?);
                Ok(write_safetensors(path, &tensors, &metadata)?)
            }
            Format::Kohya => kohya(path, &pieces, metadata),
            Format::FastVideo => {
                let mut tensors = pieces.ab("", ".lora_A", ".lora_B");
                tensors.extend(pieces.alphas(|name| format!("{name}.lora_alpha"), format)?);
                Ok(write_safetensors(path, &tensors, &metadata)?)
            }
            Format::DiffSynth => {
                let tensors = pieces.ab("", ".lora_A.default.weight", ".lora_B.default.weight");
                Ok(write_safetensors(path, &tensors, &metadata)?)
            }
        }
    }
}

/// What is written: factors, and the tensors of changes that are no product of two factors.
struct Pieces<'a> {
    list: Vec<Piece>,
    more: Vec<NamedTensor>,
    table: &'a TargetTable,
}

impl Pieces<'_> {
    /// Factors under these endings, and the rest.
    fn ab(&self, prefix: &str, down: &str, up: &str) -> Vec<NamedTensor> {
        let mut tensors = self.more.clone();
        for piece in &self.list {
            let name = &piece.name;
            tensors.push(self.down(format!("{prefix}{name}{down}"), piece));
            tensors.push(self.up(format!("{prefix}{name}{up}"), piece, &piece.ups[0]));
        }
        tensors
    }

    fn alphas(
        &self,
        key: impl Fn(&str) -> String,
        format: Format,
    ) -> Result<Vec<NamedTensor>, LoraError> {
        self.list
            .iter()
            .map(|piece| Ok(scalar(key(&piece.name), alpha(piece, format)?)))
            .collect()
    }

    /// `[rank, in]`, or `[rank, in, ..kernel]` for a convolution.
    fn down(&self, name: String, piece: &Piece) -> NamedTensor {
        let mut tensor = matrix(name, &piece.down);
        if let Some(kernel) = self.table.kernel(&piece.target) {
            let width = piece.down.cols() / kernel.iter().product::<usize>();
            let shape = [&[piece.down.rows(), width], kernel].concat();
            tensor.data.shape = shape.into();
        }
        tensor
    }

    fn up(&self, name: String, piece: &Piece, up: &Matrix) -> NamedTensor {
        let mut tensor = matrix(name, up);
        if let Some(kernel) = self.table.kernel(&piece.target) {
            let ones = vec![1; kernel.len()];
            tensor.data.shape = [&[up.rows(), up.cols()], ones.as_slice()].concat().into();
        }
        tensor
    }
}

/// The piece with scale 1, the rest moved into its output side, if no number is rounded for it.
fn without_scale(piece: Piece) -> Result<Piece, LoraError> {
    let scaled = |up: &Matrix| up.scaled_exactly(piece.scale);
    let ups: Option<Vec<Matrix>> = piece.ups.iter().map(scaled).collect();
    match ups {
        Some(ups) => Ok(Piece {
            ups,
            scale: 1.0,
            ..piece
        }),
        None => Err(LoraError::NotExpressible {
            format: Format::DiffSynth,
            reason: format!(
                "the format has no scale, and {} cannot be moved into the factors; choose comfyui",
                piece.scale
            ),
            target: piece.target,
        }),
    }
}

fn official(
    path: &Path,
    pieces: &Pieces,
    metadata: &BTreeMap<String, String>,
) -> Result<(), LoraError> {
    const HYPHEN: &str = "___lorahyphen___";
    let mut tensors = pieces.more.clone();
    for piece in &pieces.list {
        let module = format!("lora{HYPHEN}{}", piece.name.replace('.', HYPHEN));
        tensors.push(scalar(format!("{module}.alpha_scale"), piece.scale));
        tensors.push(pieces.down(format!("{module}.lora_down.weight"), piece));
        if let [up] = piece.ups.as_slice() {
            tensors.push(pieces.up(format!("{module}.lora_up.weight"), piece, up));
            continue;
        }
        for (part, up) in piece.ups.iter().enumerate() {
            tensors.push(matrix(format!("{module}.lora_up.blocks.{part}.weight"), up));
        }
    }
    Ok(write_safetensors(path, &tensors, metadata)?)
}

fn peft(
    path: &Path,
    pieces: &Pieces,
    mut metadata: BTreeMap<String, String>,
) -> Result<(), LoraError> {
    metadata.insert("format".into(), "pt".into());
    let config = settings(&pieces.list, Format::Peft)?.to_json();
    let text = serde_json::to_string_pretty(&config).map_err(json_error)?;
    std::fs::create_dir_all(path).map_err(|e| WeightsError::io(path, e))?;
    let tensors = pieces.ab("base_model.model.", ".lora_A.weight", ".lora_B.weight");
    write_safetensors(&path.join("adapter_model.safetensors"), &tensors, &metadata)?;
    // Last: a reader takes the directory for an adapter only once the configuration is there.
    Ok(write_atomic(
        &path.join("adapter_config.json"),
        text.as_bytes(),
    )?)
}

fn kohya(
    path: &Path,
    pieces: &Pieces,
    mut metadata: BTreeMap<String, String>,
) -> Result<(), LoraError> {
    let module = |name: &str| format!("lora_unet_{}", name.replace('.', "_"));
    let alpha = |name: &str| format!("{}.alpha", module(name));
    let mut tensors = pieces.alphas(alpha, Format::Kohya)?;
    tensors.extend(pieces.more.iter().cloned());
    for piece in &pieces.list {
        let module = module(&piece.name);
        tensors.push(pieces.down(format!("{module}.lora_down.weight"), piece));
        tensors.push(pieces.up(format!("{module}.lora_up.weight"), piece, &piece.ups[0]));
    }
    let rank = pieces.list.iter().map(|p| p.down.rows()).max();
    let module = "ss_network_module".to_string();
    metadata.entry(module).or_insert("networks.lora".into());
    let dim = rank.unwrap_or_default().to_string();
    metadata.entry("ss_network_dim".into()).or_insert(dim);
    Ok(write_safetensors(path, &tensors, &metadata)?)
}

fn settings(pieces: &[Piece], format: Format) -> Result<Settings, LoraError> {
    let layers = pieces
        .iter()
        .map(|piece| Ok((piece.name.clone(), piece.down.rows(), alpha(piece, format)?)));
    Ok(Settings {
        layers: layers.collect::<Result<_, LoraError>>()?,
    })
}

fn alpha(piece: &Piece, format: Format) -> Result<f64, LoraError> {
    alpha_of(&piece.name, piece.scale, piece.down.rows(), format)
}

/// The alpha from which a reader gets back the scale: in f64, or where no f64 divided by the rank
/// gives it, to the f32 in which it is used.
pub(super) fn alpha_of(
    name: &str,
    scale: f64,
    rank: usize,
    format: Format,
) -> Result<f64, LoraError> {
    let rank = rank as f64;
    let nearest = scale * rank;
    let near = [nearest, nearest.next_up(), nearest.next_down()];
    let exact = near.into_iter().find(|alpha| alpha / rank == scale);
    let in_f32 = |alpha: &f64| (alpha / rank) as f32 == scale as f32;
    exact
        .or_else(|| near.into_iter().find(in_f32))
        .ok_or_else(|| LoraError::NotExpressible {
            format,
            target: name.to_string(),
            reason: format!("no alpha divided by the rank {rank} gives its scale {scale}"),
        })
}

/// A scale in f32 where that is exact, as other programs write it, in f64 otherwise.
pub(super) fn scalar(name: String, value: f64) -> NamedTensor {
    let narrow = value as f32;
    let (bytes, dtype) = if f64::from(narrow) == value {
        (narrow.to_le_bytes().to_vec(), DType::F32)
    } else {
        (value.to_le_bytes().to_vec(), DType::F64)
    };
    let data = TensorData::from_bytes(Bytes::from_bytes_vec(bytes), [0usize; 0], dtype);
    NamedTensor { name, data }
}

pub(super) fn matrix(name: String, matrix: &Matrix) -> NamedTensor {
    NamedTensor {
        name,
        data: matrix.to_tensor_data(),
    }
}

fn json_text(value: &impl serde::Serialize) -> Result<String, LoraError> {
    serde_json::to_string(value).map_err(json_error)
}

fn json_error(error: serde_json::Error) -> LoraError {
    LoraError::InvalidSetting {
        what: format!("the settings cannot be written as JSON: {error}"),
    }
}
