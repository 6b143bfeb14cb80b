use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::{Path, PathBuf};

use longcat_weights::WeightsError;
use regex::Regex;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::LoraError;
use crate::error::UnsupportedKind;

/// Header key under which diffusers keeps PEFT's settings, as JSON.
pub(super) const HEADER_KEY: &str = "lora_adapter_metadata";
/// Prefix of the settings in that JSON.
const HEADER_PREFIX: &str = "transformer.";

/// The settings of a PEFT adapter that bear on its numbers.
#[derive(Debug, Deserialize)]
struct Fields {
    r: u32,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    /// In the order of the file: the first pattern that matches counts.
    #[serde(default)]
    rank_pattern: Map<String, Value>,
    #[serde(default)]
    alpha_pattern: Map<String, Value>,
}

/// `adapter_config.json`, or the same settings in the header of a diffusers file.
#[derive(Debug)]
pub(super) struct PeftConfig {
    path: PathBuf,
    fields: Fields,
    ranks: Vec<(Regex, u32)>,
    alphas: Vec<(Regex, f64)>,
}

impl PeftConfig {
    pub(super) fn from_file(path: &Path) -> Result<Self, LoraError> {
        let text = std::fs::read_to_string(path).map_err(|e| WeightsError::io(path, e))?;
        match serde_json::from_str(&text) {
            Ok(Value::Object(map)) => Self::new(path, map),
            Ok(_) => Err(invalid(path, "not a JSON object")),
            Err(error) => Err(invalid(path, error)),
        }
    }

    /// The settings in the header of `file`, if it holds any.
    pub(super) fn from_header(
        file: &Path,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Option<Self>, LoraError> {
        let Some(text) = metadata.get(HEADER_KEY) else {
            return Ok(None);
        };
        let map: Map<String, Value> = serde_json::from_str(text)
            .map_err(|e| invalid(file, format!("{HEADER_KEY} in the header: {e}")))?;
        let own = map.into_iter().filter_map(|(key, value)| {
            let key = key.strip_prefix(HEADER_PREFIX)?.to_string();
            Some((key, value))
        });
        Self::new(file, own.collect()).map(Some)
    }

    fn new(path: &Path, map: Map<String, Value>) -> Result<Self, LoraError> {
        refuse_other_methods(path, &map)?;
        // A null means the default in Python, an absent key in serde.
        let set = map.into_iter().filter(|(_, value)| !value.is_null());
        let fields: Fields =
            serde_json::from_value(Value::Object(set.collect())).map_err(|e| invalid(path, e))?;
        Ok(Self {
            ranks: patterns(path, &fields.rank_pattern)?,
            alphas: patterns(path, &fields.alpha_pattern)?,
            fields,
            path: path.to_path_buf(),
        })
    }

    /// The scale of a layer of this name whose factors have `rank`.
    pub(super) fn scale(&self, name: &str, rank: usize) -> Result<f64, LoraError> {
        let configured = first_match(&self.ranks, name).unwrap_or(self.fields.r);
        if configured as usize != rank {
            return Err(invalid(
                &self.path,
                format!("{name} has rank {configured} here and factors of rank {rank}"),
            ));
        }
        let alpha = first_match(&self.alphas, name).unwrap_or(self.fields.lora_alpha);
        let rank = rank as f64;
        Ok(alpha
            / if self.fields.use_rslora {
                rank.sqrt()
            } else {
                rank
            })
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
fn refuse_other_methods(path: &Path, map: &Map<String, Value>) -> Result<(), LoraError> {
    let set = |key: &str| map.get(key).and_then(Value::as_bool).unwrap_or(false);
    if set("use_dora") {
        return Err(LoraError::Unsupported {
            path: path.to_path_buf(),
            key: "use_dora".into(),
            kind: UnsupportedKind::Dora,
        });
    }
    let kind = map.get("peft_type").and_then(Value::as_str);
    if let Some(kind) = kind.filter(|kind| *kind != "LORA") {
        return Err(match kind {
            "LOHA" | "LOKR" => LoraError::Unsupported {
                path: path.to_path_buf(),
                key: format!("peft_type {kind}"),
                kind: match kind {
                    "LOHA" => UnsupportedKind::Loha,
                    _ => UnsupportedKind::Lokr,
                },
            },
            _ => invalid(
                path,
                format!("peft_type {kind} is not supported, only LORA is"),
            ),
        });
    }
    for key in ["fan_in_fan_out", "use_qalora", "lora_bias"] {
        if set(key) {
            return Err(invalid(
                path,
                format!("{key} is true, which is not supported"),
            ));
        }
    }
    for key in ["use_bdlora", "layer_replication", "modules_to_save"] {
        let value = map.get(key).unwrap_or(&Value::Null);
        if !value.is_null() && *value != json!(false) && *value != json!([]) {
            return Err(invalid(
                path,
                format!("{key} is set, which is not supported"),
            ));
        }
    }
    // These start from decomposed base weights: on the released ones the adapter is wrong.
    let init = map.get("init_lora_weights").and_then(Value::as_str);
    let decomposed = |init: &&str| {
        ["pissa", "olora", "corda", "loftq"]
            .iter()
            .any(|method| init.starts_with(method))
    };
    if let Some(init) = init.filter(decomposed) {
        let reason = format!(
            "init_lora_weights is {init}, which changes the base weights; convert the adapter to plain LoRA with PEFT first"
        );
        return Err(invalid(path, reason));
    }
    Ok(())
}

/// PEFT's patterns match whole names or whole endings of names, from a dot on.
fn patterns<T: DeserializeOwned>(
    path: &Path,
    table: &Map<String, Value>,
) -> Result<Vec<(Regex, T)>, LoraError> {
    table
        .iter()
        .map(|(pattern, value)| {
            let wrong = |e: &dyn Display| invalid(path, format!("the pattern {pattern:?}: {e}"));
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

fn invalid(path: &Path, reason: impl ToString) -> LoraError {
    LoraError::InvalidConfig {
        path: path.to_path_buf(),
        reason: reason.to_string(),
    }
}
