//! What an adapter file holds, for `longcat lora inspect`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::format::Source;
use crate::{Adapter, Block, Format, LoraError, TargetTable};

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
        let problems = source.check().err().into_iter().chain(layer_problems);
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
            metadata: source.files.metadata().clone(),
            unmatched: unmatched.cloned().collect(),
            problems: problems.map(|p| p.to_string()).collect(),
            format_rules: source
                .format
                .name_rules()
                .iter()
                .copied()
                .map(text)
                .collect(),
            name_rules: table.rules().map(text).collect(),
        };
        for block in adapter.targets().flat_map(|(_, blocks)| blocks) {
            report.count(block);
        }
        report.scales.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(report)
    }

    fn count(&mut self, block: &Block) {
        for matrix in [&block.down, &block.up] {
            self.parameters += matrix.rows() * matrix.cols();
            let dtype = format!("{:?}", matrix.dtype()).to_lowercase();
            *self.dtypes.entry(dtype).or_default() += 1;
        }
        *self.ranks.entry(block.rank()).or_default() += 1;
        match self.scales.iter_mut().find(|(s, _)| *s == block.scale) {
            Some((_, count)) => *count += 1,
            None => self.scales.push((block.scale, 1)),
        }
    }
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
