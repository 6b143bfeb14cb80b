//! The settings of PEFT: `adapter_config.json`, and diffusers' copy of it in a header.

use std::collections::BTreeMap;
use std::path::Path;

use fancy_regex::{Regex, RegexBuilder};
use longcat_weights::{ConfigError, JsonConfig};
use serde_json::{Map, Value, json};

use crate::LoraError;
use crate::error::UnsupportedKind;

/// Header key under which diffusers keeps PEFT's settings, as JSON.
pub(super) const HEADER_KEY: &str = "lora_adapter_metadata";
/// Prefix of the settings in that JSON.
const HEADER_PREFIX: &str = "transformer.";
/// What PEFT takes where the configuration is silent.
const DEFAULT: f64 = 8.0;
/// Steps after which a pattern counts as too complex: look-ahead needs backtracking.
const BACKTRACKS: usize = 100_000;

/// Methods of PEFT that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Lora,
    Loha,
    Lokr,
}

/// `adapter_config.json`, or the same settings in the header of a diffusers file: those that bear
/// on the numbers.
#[derive(Debug)]
pub(super) struct PeftConfig {
    /// What nobody read, for errors.
    json: JsonConfig,
    pub(super) method: Method,
    pub(super) use_dora: bool,
    r: usize,
    alpha: f64,
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
        let settings: Map<String, Value> = map
            .into_iter()
            .filter_map(|(key, value)| {
                let key = key.strip_prefix(HEADER_PREFIX)?.to_string();
                Some((key, value))
            })
            .collect();
        // Those of a text encoder say nothing of the transformer.
        if settings.is_empty() {
            return Ok(None);
        }
        Self::new(file, JsonConfig::new(file, settings)).map(Some)
    }

    fn new(path: &Path, mut json: JsonConfig) -> Result<Self, LoraError> {
        // A null means the default in Python.
        json.ignore(|_, value| value.is_null());
        let method = method(&mut json)?;
        refuse_other_bases(&mut json)?;
        let alpha = match method {
            Method::Lora => "lora_alpha",
            Method::Loha | Method::Lokr => "alpha",
        };
        let r: f64 = json.take_or("r", DEFAULT)?;
        let config = Self {
            method,
            use_dora: json.take_or("use_dora", false)?,
            r: whole(&json, "r", r)?,
            alpha: json.take_or(alpha, DEFAULT)?,
            use_rslora: json.take_or("use_rslora", false)?,
            ranks: patterns(&mut json, "rank_pattern")?
                .into_iter()
                .map(|(regex, rank)| Ok((regex, whole(&json, "rank_pattern", rank)?)))
                .collect::<Result<_, ConfigError>>()?,
            alphas: patterns(&mut json, "alpha_pattern")?,
            json,
        };
        if config.use_dora && method != Method::Lora {
            return Err(LoraError::Unsupported {
                path: path.to_path_buf(),
                key: "use_dora".into(),
                kind: UnsupportedKind::Dora,
            });
        }
        Ok(config)
    }

    /// The scale of a layer of this name whose factors have `rank`, where they have one.
    pub(super) fn scale(&self, name: &str, rank: Option<usize>) -> Result<f64, ConfigError> {
        let (key, configured) = match self.first_match(&self.ranks, "rank_pattern", name)? {
            Some(rank) => ("rank_pattern", rank),
            None => ("r", self.r),
        };
        if let Some(rank) = rank.filter(|rank| *rank != configured) {
            let expected = format!("the factors of {name} have rank {rank}");
            return Err(self.json.invalid(key, configured, expected));
        }
        let alpha = self.first_match(&self.alphas, "alpha_pattern", name)?;
        let alpha = alpha.unwrap_or(self.alpha);
        let rank = configured as f64;
        Ok(alpha / if self.use_rslora { rank.sqrt() } else { rank })
    }

    fn first_match<T: Copy>(
        &self,
        patterns: &[(Regex, T)],
        key: &str,
        name: &str,
    ) -> Result<Option<T>, ConfigError> {
        for (regex, value) in patterns {
            let matched = regex.is_match(name);
            if matched.map_err(|e| self.json.invalid(key, regex.as_str(), e.to_string()))? {
                return Ok(Some(*value));
            }
        }
        Ok(None)
    }
}

/// A rank, which PEFT's own files may hold as 4.0.
fn whole(json: &JsonConfig, key: &str, value: f64) -> Result<usize, ConfigError> {
    if value.fract() == 0.0 && (1.0..=1e9).contains(&value) {
        return Ok(value as usize);
    }
    Err(json.invalid(key, value, "a rank is a whole number from 1 on"))
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

fn method(json: &mut JsonConfig) -> Result<Method, ConfigError> {
    let kind: String = json.take_or("peft_type", "LORA".into())?;
    match kind.as_str() {
        "LORA" => Ok(Method::Lora),
        "LOHA" => Ok(Method::Loha),
        "LOKR" => Ok(Method::Lokr),
        _ => Err(json.unsupported("peft_type", kind, "LORA, LOHA or LOKR")),
    }
}

/// PEFT configurations whose adapters change more than the released weights by a product.
fn refuse_other_bases(json: &mut JsonConfig) -> Result<(), ConfigError> {
    for key in ["fan_in_fan_out", "use_qalora", "lora_bias"] {
        json.require(key, false)?;
    }
    for key in ["use_bdlora", "layer_replication", "modules_to_save"] {
        let value = json.take_or(key, Value::Bool(false))?;
        if value != json!(false) && value != json!([]) {
            return Err(json.unsupported(key, value, "null"));
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
        return Err(json.invalid(INIT, init, advice));
    }
    Ok(())
}

/// PEFT's patterns match whole names or whole endings of names, from a dot on, and are Python's.
fn patterns(json: &mut JsonConfig, key: &str) -> Result<Vec<(Regex, f64)>, ConfigError> {
    let table: Map<String, Value> = json.take_or(key, Map::new())?;
    table
        .into_iter()
        .map(|(pattern, value)| {
            let wrong =
                |reason: String| json.invalid(key, format!("{{{pattern:?}: {value}}}"), reason);
            let regex = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
                .backtrack_limit(BACKTRACKS)
                .build()
                .map_err(|e| wrong(e.to_string()))?;
            let number = value.as_f64().ok_or_else(|| wrong("not a number".into()))?;
            Ok((regex, number))
        })
        .collect()
}
