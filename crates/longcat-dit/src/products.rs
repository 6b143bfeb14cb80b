//! Which layers are multiplied in fp8.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use burn::tensor::backend::Backend;
use longcat_kernels::{PackedKind, Products};
use longcat_lora::LoraHost;
use longcat_weights::{ConfigError, write_atomic};
use serde::{Deserialize, Serialize};

use crate::names::packable;
use crate::{DitError, LongCatTransformer};

/// The layers that suffer from products in fp8, as a file beside the weights keeps them
/// ([`Fp8Layers::FILE`]): they are multiplied as floats.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fp8Layers {
    /// Official names of the layers that are multiplied as floats.
    pub floats: BTreeSet<String>,
    /// How far the prediction is off with one layer in fp8, for each that can be.
    #[serde(default)]
    pub errors: BTreeMap<String, f64>,
}

impl Fp8Layers {
    /// Name of the file.
    pub const FILE: &'static str = "fp8_layers.json";

    /// The choice of as many layers as `floats`, those with the largest errors.
    pub fn of_errors(errors: BTreeMap<String, f64>, floats: usize) -> Self {
        let mut names: Vec<(&String, f64)> = errors.iter().map(|(name, e)| (name, *e)).collect();
        names.sort_by(|a, b| b.1.total_cmp(&a.1));
        let worst = names.iter().take(floats);
        Self {
            floats: worst.map(|(name, _)| (*name).clone()).collect(),
            errors,
        }
    }

    /// Where it lies beside weights: a directory or a file in one.
    pub fn path(weights: &Path) -> PathBuf {
        match weights.is_dir() {
            true => weights.join(Self::FILE),
            false => weights.with_file_name(Self::FILE),
        }
    }

    /// The choice beside weights; none of the layers where there is no file.
    ///
    /// # Errors
    /// [`DitError::Config`] names a file that cannot be read.
    pub fn beside(weights: &Path) -> Result<Self, DitError> {
        let path = Self::path(weights);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self::default());
            }
            Err(cause) => return Err(ConfigError::Io { path, cause }.into()),
        };
        serde_json::from_str(&text).map_err(|cause| ConfigError::Json { path, cause }.into())
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`DitError::Weights`] names the file.
    pub fn write(&self, path: &Path) -> Result<(), DitError> {
        let mut text = serde_json::to_string_pretty(self)
            .unwrap_or_else(|error| unreachable!("names and numbers become JSON: {error}"));
        text.push('\n');
        Ok(write_atomic(path, text.as_bytes())?)
    }
}

impl<B: Backend> LongCatTransformer<B> {
    /// Official names of the layers that can be multiplied in fp8: those of [`packable`] in e4m3.
    pub fn fp8_layers(&self) -> Vec<String> {
        let (packable, mut names) = (packable(self.config()), Vec::new());
        self.visit_lora(&mut |name, layer| {
            let fp8 = layer.weight.packed_kind() == Some(PackedKind::Fp8E4m3);
            if fp8 && packable(&format!("{name}.weight")) {
                names.push(name.to_string());
            }
        });
        names
    }

    /// Lets the layers of these official names be multiplied in other numbers where they are packed so that they
    /// can be, and tells how many are.
    pub fn set_products(&mut self, products: Products, of: &dyn Fn(&str) -> bool) -> usize {
        let (packable, mut count) = (packable(self.config()), 0);
        self.visit_lora_mut(&mut |name, layer| {
            if of(name) && packable(&format!("{name}.weight")) {
                count += usize::from(layer.weight.set_products(products));
            }
        });
        count
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_worst_layers_are_kept_and_read_again() {
        let errors = [("a", 0.1), ("b", 0.3), ("c", 0.2)];
        let errors = errors.map(|(name, error)| (name.to_string(), error));
        let layers = Fp8Layers::of_errors(errors.into(), 2);
        assert_eq!(layers.floats, BTreeSet::from(["b", "c"].map(String::from)));

        let folder = std::env::temp_dir().join(format!("fp8-layers-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        assert_eq!(Fp8Layers::beside(&folder).unwrap(), Fp8Layers::default());
        layers.write(&Fp8Layers::path(&folder)).unwrap();
        let file = folder.join("model.safetensors");
        assert_eq!(Fp8Layers::beside(&file).unwrap(), layers);
        std::fs::write(folder.join(Fp8Layers::FILE), "{\"float\": []}").unwrap();
        let error = Fp8Layers::beside(&folder).unwrap_err().to_string();
        assert!(error.contains(Fp8Layers::FILE), "{error}");
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
