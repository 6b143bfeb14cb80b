//! What an adapter file holds, for `longcat lora inspect`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::format::Source;
use crate::{Adapter, Block, Format, LoraError, Matrix, TargetTable};

/// What a file holds, for people and programs.
#[derive(Debug, Clone, Serialize)]
pub struct AdapterReport {
    /// The adapter file.
    pub path: PathBuf,
    /// The dialect it is written in.
    pub format: Format,
    /// Number of layers it adapts.
    pub layers: usize,
    /// Number of values in all factors.
    pub parameters: usize,
    /// Stored types of the factors, with how many factors have each.
    pub dtypes: BTreeMap<String, usize>,
    /// Ranks, with how many blocks have each.
    pub ranks: BTreeMap<usize, usize>,
    /// Scales, with how many blocks have each; ascending.
    pub scales: Vec<(f64, usize)>,
    /// Layers by kind, numbers in their names left out (`blocks.*.attn.qkv`).
    pub targets: Vec<TargetReport>,
    /// Changes that are no product of two factors, by kind, with how many there are.
    pub other_changes: BTreeMap<&'static str, usize>,
    /// What a user should know before trusting the adapter.
    pub warnings: Vec<String>,
    /// What the header says about use and training: title, trigger words, base model and settings.
    pub about: Vec<(String, String)>,
    /// The strings of the file's header.
    pub metadata: BTreeMap<String, String>,
    /// Keys that fit no layer of the target table or no part of an adapter.
    pub unmatched: Vec<String>,
    /// Why the file could not be loaded; empty for a good one.
    pub problems: Vec<String>,
    /// Ordered regex rules from the file's module names to dotted names.
    pub format_rules: Vec<(String, String)>,
    /// Ordered regex rules from dotted names to canonical names.
    pub name_rules: Vec<(String, String)>,
}

/// The layers of one kind.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct TargetReport {
    /// The name with `*` for numbers between dots.
    pub pattern: String,
    /// Number of such layers.
    pub count: usize,
    /// Ranks of the blocks on one such layer.
    pub ranks: Vec<usize>,
    /// In how many parts the output rows are divided.
    pub parts: usize,
}

impl AdapterReport {
    /// Looks into an adapter file or directory. A file that cannot be loaded is reported on as far
    /// as it can be read.
    ///
    /// # Errors
    /// Only for what is no safetensors file, or holds no adapter of any kind.
    pub fn inspect(path: &Path, table: &TargetTable) -> Result<Self, LoraError> {
        let source = Source::open(path, table)?;
        if !source.is_adapter() {
            source.check()?;
        }
        let (adapter, layer_problems) = source.read(table);
        let problems = source.problems().into_iter().chain(layer_problems);
        let unmatched = source
            .unused
            .iter()
            .chain(source.unsupported.iter().map(|(key, _)| key))
            .chain(source.ambiguous.iter().map(|(key, _)| key))
            .chain(source.unknown.values().flatten());
        let text = |(from, to): (&str, &str)| (from.to_string(), to.to_string());
        let mut report = Self {
            path: source.files.path().to_path_buf(),
            format: source.format,
            layers: adapter.len(),
            parameters: 0,
            dtypes: BTreeMap::new(),
            ranks: BTreeMap::new(),
            scales: Vec::new(),
            targets: targets(&adapter),
            other_changes: BTreeMap::new(),
            warnings: adapter.warnings().to_vec(),
            about: about(source.files.metadata()),
            metadata: source.files.metadata().clone(),
            unmatched: unmatched.cloned().collect(),
            problems: problems.map(|p| p.to_string()).collect(),
            format_rules: source.format.name_rules().into_iter().map(text).collect(),
            name_rules: table.rules().map(text).collect(),
        };
        for block in adapter.targets().flat_map(|(_, blocks)| blocks) {
            report.count(block);
        }
        for patch in adapter.patches().flat_map(|(_, patches)| patches) {
            *report.other_changes.entry(patch.kind()).or_default() += 1;
            for matrix in patch.matrices() {
                report.count_matrix(matrix);
            }
        }
        report.scales.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(report)
    }

    fn count_matrix(&mut self, matrix: &Matrix) {
        self.parameters += matrix.rows() * matrix.cols();
        let dtype = format!("{:?}", matrix.dtype()).to_lowercase();
        *self.dtypes.entry(dtype).or_default() += 1;
    }

    fn count(&mut self, block: &Block) {
        self.count_matrix(&block.down);
        self.count_matrix(&block.up);
        *self.ranks.entry(block.rank()).or_default() += 1;
        match self.scales.iter_mut().find(|(s, _)| *s == block.scale) {
            Some((_, count)) => *count += 1,
            None => self.scales.push((block.scale, 1)),
        }
    }
}

/// Header keys that tell what an adapter is for, by the end of their names.
const ABOUT: [(&str, &str); 10] = [
    ("modelspec.title", "title"),
    ("modelspec.author", "author"),
    ("modelspec.trigger_phrase", "trigger words"),
    ("modelspec.usage_hint", "usage"),
    ("modelspec.architecture", "made for"),
    ("ss_base_model_version", "made for"),
    ("ss_sd_model_name", "base model"),
    ("ss_network_module", "trained with"),
    ("ss_network_args", "settings"),
    ("ss_steps", "steps"),
];
/// How many of the most frequent tags of the training captions are shown.
const TAGS: usize = 8;

fn about(metadata: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let known = ABOUT.iter().filter_map(|(key, what)| {
        let value = metadata
            .get(*key)
            .filter(|v| !v.is_empty() && *v != "None")?;
        Some((what.to_string(), value.clone()))
    });
    let mut about: Vec<_> = known.collect();
    let tags = metadata.get("ss_tag_frequency").map(|t| frequent_tags(t));
    if let Some(tags) = tags.filter(|tags| !tags.is_empty()) {
        about.push(("frequent tags".into(), tags.join(", ")));
    }
    about
}

/// The most frequent tags: kohya counts them by folder, others in one table.
fn frequent_tags(json: &str) -> Vec<String> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let table: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(json).unwrap_or_default();
    for (name, value) in table {
        match value {
            serde_json::Value::Object(tags) => {
                for (tag, count) in tags {
                    *counts.entry(tag).or_default() += count.as_u64().unwrap_or(0);
                }
            }
            count => *counts.entry(name).or_default() += count.as_u64().unwrap_or(0),
        }
    }
    let mut counts: Vec<(String, u64)> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.into_iter().take(TAGS).map(|(tag, _)| tag).collect()
}

fn targets(adapter: &Adapter) -> Vec<TargetReport> {
    let mut counts: BTreeMap<(String, Vec<usize>, usize), usize> = BTreeMap::new();
    for (name, blocks) in adapter.targets() {
        let segments = name.split('.').map(|segment| {
            let number = segment.bytes().all(|b| b.is_ascii_digit());
            if number { "*" } else { segment }
        });
        let ranks = blocks.iter().map(Block::rank).collect();
        let key = (segments.collect::<Vec<_>>().join("."), ranks, blocks[0].of);
        *counts.entry(key).or_default() += 1;
    }
    counts
        .into_iter()
        .map(|((pattern, ranks, parts), count)| TargetReport {
            pattern,
            count,
            ranks,
            parts,
        })
        .collect()
}
