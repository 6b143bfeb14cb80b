//! The settings of PEFT: `adapter_config.json`, and diffusers' copy of it in a header.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use longcat_weights::{ConfigError, JsonConfig};
use regex::Regex;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::LoraError;
use crate::error::UnsupportedKind;

/// Header key under which diffusers keeps PEFT's settings, as JSON.
pub(super) const HEADER_KEY: &str = "lora_adapter_metadata";
/// Prefix of the settings in that JSON.
const HEADER_PREFIX: &str = "transformer.";

/// `adapter_config.json`, or the same settings in the header of a diffusers file: those that bear
/// on the numbers.
#[derive(Debug)]
pub(super) struct PeftConfig {
    /// What nobody read, for errors.
    json: JsonConfig,
    r: usize,
    lora_alpha: f64,
    use_rslora: bool,
    /// In the order of the file: the first pattern that matches counts.
    ranks: Vec<(Regex, usize)>,
    alphas: Vec<(Regex, f64)>,
}

impl PeftConfig {
    pub(super) fn from_file(path: &Path) -> Result<Self, LoraError> {
        Self::new(path, JsonConfig::read(path)?)
    }

    /// The settings in the header of `file`, if it holds any.
    pub(super) fn from_header(
        file: &Path,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Option<Self>, LoraError> {
        let Some(text) = metadata.get(HEADER_KEY) else {
            return Ok(None);
        };
        let map: Map<String, Value> =
            serde_json::from_str(text).map_err(|cause| LoraError::InvalidHeader {
                path: file.to_path_buf(),
                key: HEADER_KEY,
                cause,
            })?;
        let settings = map.into_iter().filter_map(|(key, value)| {
            let key = key.strip_prefix(HEADER_PREFIX)?.to_string();
            Some((key, value))
        });
        Self::new(file, JsonConfig::new(file, settings.collect())).map(Some)
    }

    fn new(path: &Path, mut json: JsonConfig) -> Result<Self, LoraError> {
        // A null means the default in Python.
        json.ignore(|_, value| value.is_null());
        refuse_other_methods(path, &mut json)?;
        Ok(Self {
            r: json.take("r")?,
            lora_alpha: json.take("lora_alpha")?,
            use_rslora: json.take_or("use_rslora", false)?,
            ranks: patterns(&mut json, "rank_pattern")?,
            alphas: patterns(&mut json, "alpha_pattern")?,
            json,
        })
    }

    /// The scale of a layer of this name whose factors have `rank`.
    pub(super) fn scale(&self, name: &str, rank: usize) -> Result<f64, ConfigError> {
        let (key, configured) = match first_match(&self.ranks, name) {
            Some(rank) => ("rank_pattern", rank),
            None => ("r", self.r),
        };
        if configured != rank {
            let expected = format!("the factors of {name} have rank {rank}");
            return Err(self.json.invalid(key, configured, expected));
        }
        let alpha = first_match(&self.alphas, name).unwrap_or(self.lora_alpha);
        let rank = rank as f64;
        Ok(alpha / if self.use_rslora { rank.sqrt() } else { rank })
    }
}

/// Settings of layers to be written.
#[derive(Default)]
pub(super) struct Settings {
    /// Layer name, rank, alpha.
    pub(super) layers: Vec<(String, usize, f64)>,
}

impl Settings {
    /// The settings as PEFT's configuration: the most frequent rank and alpha as the defaults, a
    /// pattern for every layer that differs.
    pub(super) fn to_json(&self) -> Map<String, Value> {
        let r = most_frequent(self.layers.iter().map(|l| l.1));
        let bits = most_frequent(self.layers.iter().map(|l| l.2.to_bits()));
        let alpha = f64::from_bits(bits);
        let other_rank = self.layers.iter().filter(|l| l.1 != r);
        let other_alpha = self.layers.iter().filter(|l| l.2 != alpha);
        let ranks: Map<String, Value> = other_rank.map(|l| (l.0.clone(), json!(l.1))).collect();
        let alphas: Map<String, Value> = other_alpha.map(|l| (l.0.clone(), json!(l.2))).collect();
        let names: Vec<&str> = self.layers.iter().map(|l| l.0.as_str()).collect();
        let config = json!({
            "peft_type": "LORA",
            "r": r,
            // PEFT annotates alpha as an integer; whole numbers are written as such.
            "lora_alpha": if alpha.fract() == 0.0 && alpha.abs() < 1e15 {
                json!(alpha as i64)
            } else {
                json!(alpha)
            },
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "target_modules": names,
            "use_rslora": false,
            "use_dora": false,
            "bias": "none",
            "lora_bias": false,
            "fan_in_fan_out": false,
            "lora_dropout": 0.0,
            "inference_mode": true,
        });
        match config {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    /// The same as the JSON text of diffusers' header entry.
    pub(super) fn to_header(&self) -> String {
        let prefixed = self
            .to_json()
            .into_iter()
            .map(|(key, value)| (format!("{HEADER_PREFIX}{key}"), value));
        Value::Object(prefixed.collect()).to_string()
    }
}

fn most_frequent<T: Ord + Copy + Default>(values: impl Iterator<Item = T>) -> T {
    let mut counts: BTreeMap<T, usize> = BTreeMap::new();
    for value in values {
        *counts.entry(value).or_default() += 1;
    }
    let best = counts.into_iter().max_by_key(|(_, count)| *count);
    best.map(|(value, _)| value).unwrap_or_default()
}

/// PEFT configurations whose adapters are more than `W + scale·B·A` on the released weights.
fn refuse_other_methods(path: &Path, json: &mut JsonConfig) -> Result<(), LoraError> {
    let other = |key: String, kind| {
        Err(LoraError::Unsupported {
            path: path.to_path_buf(),
            key,
            kind,
        })
    };
    if json.take_or("use_dora", false)? {
        return other("use_dora".into(), UnsupportedKind::Dora);
    }
    let kind: String = json.take_or("peft_type", "LORA".into())?;
    match kind.as_str() {
        "LORA" => {}
        "LOHA" => return other(format!("peft_type {kind}"), UnsupportedKind::Loha),
        "LOKR" => return other(format!("peft_type {kind}"), UnsupportedKind::Lokr),
        _ => return Err(json.unsupported("peft_type", kind, "LORA").into()),
    }
    for key in ["fan_in_fan_out", "use_qalora", "lora_bias"] {
        json.require(key, false)?;
    }
    for key in ["use_bdlora", "layer_replication", "modules_to_save"] {
        let value = json.take_or(key, Value::Bool(false))?;
        if value != json!(false) && value != json!([]) {
            return Err(json.unsupported(key, value, "null").into());
        }
    }
    // These start from decomposed base weights: on the released ones the adapter is wrong.
    const INIT: &str = "init_lora_weights";
    let init = json.take_or(INIT, Value::Null)?;
    let decomposed = |init: &&str| {
        ["pissa", "olora", "corda", "loftq"]
            .iter()
            .any(|method| init.starts_with(method))
    };
    if let Some(init) = init.as_str().filter(decomposed) {
        let advice = "it changes the base weights; convert the adapter to plain LoRA with PEFT";
        return Err(json.invalid(INIT, init, advice).into());
    }
    Ok(())
}

/// PEFT's patterns match whole names or whole endings of names, from a dot on.
fn patterns<T: DeserializeOwned>(
    json: &mut JsonConfig,
    key: &str,
) -> Result<Vec<(Regex, T)>, ConfigError> {
    let table: Map<String, Value> = json.take_or(key, Map::new())?;
    table
        .into_iter()
        .map(|(pattern, value)| {
            let wrong = |e: &dyn Display| {
                json.invalid(key, format!("{{{pattern:?}: {value}}}"), e.to_string())
            };
            let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$")).map_err(|e| wrong(&e))?;
            let value = serde_json::from_value(value.clone()).map_err(|e| wrong(&e))?;
            Ok((regex, value))
        })
        .collect()
}

fn first_match<T: Copy>(patterns: &[(Regex, T)], name: &str) -> Option<T> {
    let found = patterns.iter().find(|(regex, _)| regex.is_match(name));
    found.map(|(_, value)| *value)
}
