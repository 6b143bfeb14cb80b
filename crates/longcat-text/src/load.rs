//! Loading the encoder.

use std::path::Path;

use burn::tensor::DType;
use burn::tensor::backend::Backend;
use longcat_kernels::KernelBackend;
use longcat_weights::{
    LoadAs, LoadOptions, LoadReport, NameMap, Weight, WeightFiles, WeightHost, WeightsError,
    check_module, load_host,
};
use regex::Regex;

use crate::sentence_piece::TENSOR;
use crate::table::{fill, rows_within};
use crate::{TextError, Umt5Config, Umt5Encoder, official_weights};

/// Path of the table of token embeddings, where it is in one piece.
const TABLE: &str = "shared.0";

/// The table from the official keys (`encoder.block.0.layer.0.SelfAttention.q.weight`) to the paths
/// of [`Umt5Encoder`].
pub fn canonical_names() -> NameMap {
    NameMap::new(&[
        (r"^shared\.weight$", TABLE),
        (r"^encoder\.final_layer_norm\.", "final_norm."),
        (r"^encoder\.block\.(\d+)\.", "blocks.${1}."),
        (r"\.layer\.0\.layer_norm\.", ".attention_norm."),
        (r"\.layer\.1\.layer_norm\.", ".feed_forward_norm."),
        (
            r"\.layer\.0\.SelfAttention\.(\w+)\.weight$",
            ".attention.${1}",
        ),
        (
            r"\.layer\.1\.DenseReluDense\.(\w+)\.weight$",
            ".feed_forward.${1}",
        ),
    ])
}

/// The table from the paths of [`Umt5Encoder`] back to the official keys.
pub fn internal_names() -> NameMap {
    NameMap::new(&[
        (r"^shared\.0$", "shared.weight"),
        (r"^final_norm\.", "encoder.final_layer_norm."),
        (r"^blocks\.(\d+)\.", "encoder.block.${1}."),
        (r"\.attention_norm\.", ".layer.0.layer_norm."),
        (r"\.feed_forward_norm\.", ".layer.1.layer_norm."),
        (r"\.attention\.(\w+)$", ".layer.0.SelfAttention.${1}.weight"),
        (
            r"\.feed_forward\.(\w+)$",
            ".layer.1.DenseReluDense.${1}.weight",
        ),
    ])
}

impl<B: KernelBackend> Umt5Encoder<B> {
    /// Loads the weights of a file or directory in any layout (see
    /// [`official_weights`](crate::official_weights)), and the `config.json` of a directory; without
    /// one the config is that of the shapes.
    ///
    /// Files are memory-mapped; tensors become what `load_as` says, f32 where it says nothing. With
    /// [`DType::F16`] the feed-forward output layers stay f32, as in the reference. The table of token
    /// embeddings and the position biases are never packed. The table of token embeddings is in pieces where
    /// the device has no room for it in one tensor ([`max_tensor_bytes`]).
    ///
    /// [`max_tensor_bytes`]: longcat_kernels::KernelDevice::max_tensor_bytes
    ///
    /// # Errors
    /// [`TextError`] names file and key: see [`Umt5Config::read`] and
    /// [`longcat_weights::load_host`].
    pub fn load(
        path: &Path,
        load_as: impl Into<LoadAs>,
        device: &B::Device,
    ) -> Result<(Self, Umt5Config), TextError> {
        let load_as = load_as.into();
        let dtype = load_as.dtype.unwrap_or(DType::F32);
        let files = official_weights(&WeightFiles::open(path)?)?;
        let config = Umt5Config::beside(path, &files)?;
        let rows = rows_within(&config, dtype, B::max_tensor_bytes(device));
        let mut encoder = Self::in_pieces(&config, rows, device);
        let mut options = LoadOptions {
            dtype: Some(dtype),
            precision: load_as.precision,
            keep_dense: None,
            on_host: load_as.on_host(config.num_layers),
            keep_f32: (dtype == DType::F16).then(|| pattern(r"^blocks\.\d+\.feed_forward\.wo$")),
            ignore_unused: ignored(&files)?,
        };
        let names = canonical_names();
        if encoder.shared.len() == 1 {
            load_host(&mut encoder, &files, &names, &options)?;
            return Ok((encoder, config));
        }
        // The table apart from the rest, for which one key is one parameter.
        let table = std::mem::take(&mut encoder.shared);
        let key = files.keys().find(|key| names.map(key) == TABLE);
        let key = key.ok_or_else(|| WeightsError::MissingTensor {
            path: files.path().to_path_buf(),
            key: "shared.weight".into(),
        })?;
        let here = format!("^{}$", regex::escape(key));
        options.ignore_unused.push(pattern(&here));
        load_host(&mut encoder, &files, &names, &options)?;
        encoder.shared = fill(table, &files, key, dtype, &config, device)?;
        Ok((encoder, config))
    }

    /// Which weights under their official names an encoder of this config would take.
    ///
    /// # Errors
    /// [`WeightsError`] when a tensor cannot be read.
    pub fn check(
        config: &Umt5Config,
        files: &WeightFiles,
        device: &B::Device,
    ) -> Result<LoadReport, WeightsError> {
        let options = LoadOptions {
            ignore_unused: ignored(files)?,
            ..LoadOptions::default()
        };
        let encoder = Self::new(config, device);
        Ok(check_module(&encoder, files, &canonical_names(), &options))
    }
}

/// Whether the weight of this official name is one that `--precision` and `longcat quantize` pack: the
/// matrices of attention and feed-forward.
pub fn is_packable(name: &str) -> bool {
    let layer = name.strip_suffix(".weight").unwrap_or_default();
    let last = layer.rsplit('.').next().unwrap_or_default();
    layer.starts_with("encoder.block.")
        && matches!(last, "q" | "k" | "v" | "o" | "wi_0" | "wi_1" | "wo")
}

impl<B: Backend> WeightHost<B> for Umt5Encoder<B> {
    fn visit_weights(&self, visit: &mut dyn FnMut(&Weight<B>)) {
        self.blocks
            .iter()
            .for_each(|block| block.visit_weights(visit));
    }

    fn visit_weights_mut(&mut self, visit: &mut dyn FnMut(&mut Weight<B>)) {
        self.blocks
            .iter_mut()
            .for_each(|block| block.visit_weights_mut(visit));
    }
}

impl Umt5Config {
    /// The config of weights: `config.json` of a directory, else what [`Self::of_weights`] tells.
    ///
    /// # Errors
    /// [`TextError`] names file and key.
    pub fn beside(path: &Path, official: &WeightFiles) -> Result<Self, TextError> {
        let file = path.join("config.json");
        match file.is_file() {
            true => Ok(Self::read(&file)?),
            false => Self::of_weights(official),
        }
    }
}

/// Keys that may be left unused: of a second copy of the embedding, and of the tokenizer, a SentencePiece
/// model in bytes that ComfyUI's files carry.
fn ignored(files: &WeightFiles) -> Result<Vec<Regex>, WeightsError> {
    let mut ignored = duplicate_embedding(files)?;
    ignored.push(pattern(&format!("^{TENSOR}$")));
    Ok(ignored)
}

/// Some exports store the embedding twice. The second copy may be left unused, if it is a copy.
fn duplicate_embedding(files: &WeightFiles) -> Result<Vec<Regex>, WeightsError> {
    const COPY: &str = "encoder.embed_tokens.weight";
    if files.info(COPY).is_none() || files.info("shared.weight").is_none() {
        return Ok(Vec::new());
    }
    let same = files.bytes(COPY)? == files.bytes("shared.weight")?;
    Ok(if same {
        vec![pattern(r"^encoder\.embed_tokens\.weight$")]
    } else {
        Vec::new()
    })
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap_or_else(|error| panic!("invalid pattern {text}: {error}"))
}
