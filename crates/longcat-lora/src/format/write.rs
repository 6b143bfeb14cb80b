//! Adapters to files of each format.

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Bytes, DType, TensorData};
use longcat_weights::{NamedTensor, WeightsError, write_atomic, write_safetensors};

use super::Format;
use super::config::{HEADER_KEY, Settings};
use super::layout::{self, HINT_KEY, Piece};
use crate::{Adapter, LoraError, Matrix, TargetTable};

/// How an adapter is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteOptions {
    /// The dialect.
    pub format: Format,
    /// Write fused layers by their parts, under the split names of the target table. Without it
    /// that happens only where the parts differ in rank or scale. The official format never does.
    pub split: bool,
}

impl Adapter {
    /// Writes the adapter with all its numbers unchanged: a file, or for PEFT a directory with
    /// `adapter_model.safetensors` and `adapter_config.json`. Files are replaced atomically.
    ///
    /// # Errors
    /// [`LoraError::NotExpressible`] where the format cannot hold the numbers as they are or is
    /// read only, [`LoraError::File`] when writing fails.
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
        let mut metadata = self.metadata.clone();
        let hints: BTreeMap<&str, usize> = pieces
            .iter()
            .filter_map(|p| Some((p.name.as_str(), p.hint?)))
            .collect();
        if !hints.is_empty() {
            metadata.insert(HINT_KEY.into(), json_text(&hints)?);
        }
        match format {
            Format::Official => official(path, &pieces, &metadata),
            Format::Peft => peft(path, &pieces, metadata),
            Format::Diffusers => {
                metadata.insert("format".into(), "pt".into());
                metadata.insert(HEADER_KEY.into(), settings(&pieces, format)?.to_header());
                Ok(write_safetensors(
                    path,
                    &ab(&pieces, "transformer."),
                    &metadata,
                )?)
            }
            Format::ComfyUi => {
                let mut tensors = ab(&pieces, "diffusion_model.");
                for piece in &pieces {
                    let key = format!("diffusion_model.{}.alpha", piece.name);
                    tensors.push(scalar(key, alpha(piece, format)?));
                }
                Ok(write_safetensors(path, &tensors, &metadata)?)
            }
            Format::Kohya => kohya(path, &pieces, metadata),
            Format::FastVideo | Format::DiffSynth => Err(LoraError::NotExpressible {
                format,
                target: self.origin().display().to_string(),
                reason:
                    "this format is only read; choose official, peft, diffusers, comfyui or kohya"
                        .into(),
            }),
        }
    }
}

fn official(
    path: &Path,
    pieces: &[Piece],
    metadata: &BTreeMap<String, String>,
) -> Result<(), LoraError> {
    const HYPHEN: &str = "___lorahyphen___";
    let mut tensors = Vec::new();
    for piece in pieces {
        let module = format!("lora{HYPHEN}{}", piece.name.replace('.', HYPHEN));
        tensors.push(scalar(format!("{module}.alpha_scale"), piece.scale));
        tensors.push(matrix(format!("{module}.lora_down.weight"), &piece.down));
        if let [up] = piece.ups.as_slice() {
            tensors.push(matrix(format!("{module}.lora_up.weight"), up));
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
    pieces: &[Piece],
    mut metadata: BTreeMap<String, String>,
) -> Result<(), LoraError> {
    metadata.insert("format".into(), "pt".into());
    let config = settings(pieces, Format::Peft)?.to_json();
    let text = serde_json::to_string_pretty(&config).map_err(json_error)?;
    std::fs::create_dir_all(path).map_err(|e| WeightsError::io(path, e))?;
    let tensors = ab(pieces, "base_model.model.");
    write_safetensors(&path.join("adapter_model.safetensors"), &tensors, &metadata)?;
    // Last: a reader takes the directory for an adapter only once the configuration is there.
    Ok(write_atomic(
        &path.join("adapter_config.json"),
        text.as_bytes(),
    )?)
}

fn kohya(
    path: &Path,
    pieces: &[Piece],
    mut metadata: BTreeMap<String, String>,
) -> Result<(), LoraError> {
    let mut tensors = Vec::new();
    for piece in pieces {
        let module = format!("lora_unet_{}", piece.name.replace('.', "_"));
        tensors.push(scalar(
            format!("{module}.alpha"),
            alpha(piece, Format::Kohya)?,
        ));
        tensors.push(matrix(format!("{module}.lora_down.weight"), &piece.down));
        tensors.push(matrix(format!("{module}.lora_up.weight"), &piece.ups[0]));
    }
    let rank = pieces.iter().map(|p| p.down.rows()).max();
    let module = "ss_network_module".to_string();
    metadata.entry(module).or_insert("networks.lora".into());
    let dim = rank.unwrap_or_default().to_string();
    metadata.entry("ss_network_dim".into()).or_insert(dim);
    Ok(write_safetensors(path, &tensors, &metadata)?)
}

/// Factors as `lora_A` and `lora_B`.
fn ab(pieces: &[Piece], prefix: &str) -> Vec<NamedTensor> {
    pieces
        .iter()
        .flat_map(|piece| {
            let name = &piece.name;
            [
                matrix(format!("{prefix}{name}.lora_A.weight"), &piece.down),
                matrix(format!("{prefix}{name}.lora_B.weight"), &piece.ups[0]),
            ]
        })
        .collect()
}

fn settings(pieces: &[Piece], format: Format) -> Result<Settings, LoraError> {
    let layers = pieces
        .iter()
        .map(|piece| Ok((piece.name.clone(), piece.down.rows(), alpha(piece, format)?)));
    Ok(Settings {
        layers: layers.collect::<Result<_, LoraError>>()?,
    })
}

/// The alpha from which a reader gets back the scale: in f64, or where no f64 divided by the rank
/// gives it, to the f32 in which it is used.
fn alpha(piece: &Piece, format: Format) -> Result<f64, LoraError> {
    let rank = piece.down.rows() as f64;
    let nearest = piece.scale * rank;
    let near = [nearest, nearest.next_up(), nearest.next_down()];
    let exact = near.into_iter().find(|alpha| alpha / rank == piece.scale);
    let in_f32 = |alpha: &f64| (alpha / rank) as f32 == piece.scale as f32;
    exact
        .or_else(|| near.into_iter().find(in_f32))
        .ok_or_else(|| LoraError::NotExpressible {
            format,
            target: piece.name.clone(),
            reason: format!(
                "no alpha divided by the rank {rank} gives its scale {}",
                piece.scale
            ),
        })
}

/// A scale in f32 where that is exact, as other programs write it, in f64 otherwise.
fn scalar(name: String, value: f64) -> NamedTensor {
    let narrow = value as f32;
    let (bytes, dtype) = if f64::from(narrow) == value {
        (narrow.to_le_bytes().to_vec(), DType::F32)
    } else {
        (value.to_le_bytes().to_vec(), DType::F64)
    };
    let data = TensorData::from_bytes(Bytes::from_bytes_vec(bytes), [0usize; 0], dtype);
    NamedTensor { name, data }
}

fn matrix(name: String, matrix: &Matrix) -> NamedTensor {
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
