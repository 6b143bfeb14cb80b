//! Names of the layers that adapters address, and the spellings of other tools.

use regex::Regex;

use crate::{Format, Place};

/// One kind of layer that adapters can address.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Canonical name; `{i}` stands for a number (`blocks.{i}.attn.qkv`).
    pub name: &'static str,
    /// How many equal parts are fused in its output rows (1: none).
    pub parts: usize,
    /// Names of the parts where a file addresses them one by one; empty where nobody does.
    pub split: &'static [&'static str],
}

/// How a model's layers are named in adapter files: its targets, how they are fused, and other
/// spellings of their names. Data of the model crate; this crate knows no model.
///
/// A part of a fused target is written `name#j`, with `j` from 0.
#[derive(Debug, Clone)]
pub struct TargetTable {
    targets: Vec<Target>,
    /// Whole-name patterns of the targets, in the order of `targets`.
    patterns: Vec<Regex>,
    /// Dotted spelling to canonical name or part.
    dotted: Vec<(Regex, String)>,
    /// The same with every dot written as an underscore.
    flat: Vec<(Regex, String)>,
    /// Canonical name or part to the spelling that a format's readers expect.
    written: Vec<(Format, Regex, String)>,
    /// Layers that are a vector and carry no factors.
    norms: Vec<Regex>,
    /// Layers whose weight is a convolution's in files, with the size of its kernel.
    kernels: Vec<(Regex, Vec<usize>)>,
    /// Names for groups of layers.
    pub(crate) groups: Vec<(&'static str, Vec<Place>)>,
}

impl TargetTable {
    /// Builds the table from the targets and further spellings `(other, canonical)`, where both
    /// may hold `{i}` and the canonical side may name a part (`blocks.{i}.attn.qkv#0`).
    ///
    /// # Panics
    /// If a target with split names has not exactly one per part: tables are data of the program.
    pub fn new(targets: &[Target], aliases: &[(&str, &str)]) -> Self {
        let mut spellings = Vec::new();
        for target in targets {
            assert!(
                target.split.is_empty() || target.split.len() == target.parts,
                "{} has {} parts and {} split names",
                target.name,
                target.parts,
                target.split.len()
            );
            spellings.push((target.name.to_string(), target.name.to_string()));
            for (part, name) in target.split.iter().enumerate() {
                spellings.push((name.to_string(), format!("{}#{part}", target.name)));
            }
        }
        for (other, canonical) in aliases {
            spellings.push((other.to_string(), canonical.to_string()));
        }
        let mut table = Self {
            targets: targets.to_vec(),
            patterns: targets.iter().map(|t| pattern(t.name, ".")).collect(),
            dotted: Vec::new(),
            flat: Vec::new(),
            written: Vec::new(),
            norms: Vec::new(),
            kernels: Vec::new(),
            groups: Vec::new(),
        };
        for (other, canonical) in &spellings {
            table.spell(other, canonical);
        }
        table
    }

    /// Adds layers that are a vector, such as the weight of a norm: files hold differences of them.
    pub fn with_norms(mut self, names: &[&str]) -> Self {
        for name in names {
            self.spell(name, name);
            self.norms.push(pattern(name, "."));
        }
        self
    }

    /// Adds the names `(other, canonical)` under which a format's readers know layers and parts,
    /// for reading and for writing.
    pub fn with_names(mut self, format: Format, names: &[(&str, &str)]) -> Self {
        for (other, canonical) in names {
            self.spell(other, canonical);
            let row = (format, pattern(canonical, "."), replacement(other));
            self.written.push(row);
        }
        self
    }

    /// Says that a layer's weight is a convolution with this kernel, `[out, in, ..kernel]` in files.
    pub fn with_kernel(mut self, name: &str, kernel: &[usize]) -> Self {
        self.kernels.push((pattern(name, "."), kernel.to_vec()));
        self
    }

    fn spell(&mut self, other: &str, canonical: &str) {
        for (rules, separator) in [(&mut self.dotted, "."), (&mut self.flat, "_")] {
            rules.push((pattern(other, separator), replacement(canonical)));
        }
    }

    /// The canonical name, or part of a canonical name, that a dotted spelling stands for.
    /// `None` where the model has no such layer.
    pub fn canonical(&self, name: &str) -> Option<String> {
        matches(&self.dotted, name).into_iter().next()
    }

    /// Every canonical name that a flattened spelling (dots as underscores) can stand for.
    pub fn unflatten(&self, name: &str) -> Vec<String> {
        let mut names = matches(&self.flat, name);
        names.sort();
        names.dedup();
        names
    }

    /// How many parts are fused in the target of this canonical name; 1 for names not in the table.
    pub fn parts(&self, name: &str) -> usize {
        self.target(name).map_or(1, |(_, target)| target.parts)
    }

    /// The names of the parts of a canonical name, where the table has some.
    pub(crate) fn split_names(&self, name: &str) -> Option<Vec<String>> {
        let (pattern, target) = self.target(name)?;
        if target.split.is_empty() {
            return None;
        }
        let names = target.split.iter();
        Some(
            names
                .map(|split| {
                    pattern
                        .replace(name, replacement(split).as_str())
                        .into_owned()
                })
                .collect(),
        )
    }

    /// The name by which a format's readers know a layer, or a part of it (`name#j`).
    pub(crate) fn written(&self, format: Format, name: &str) -> Option<String> {
        let mut rows = self.written.iter().filter(|(f, ..)| *f == format);
        let (_, pattern, to) = rows.find(|(_, pattern, _)| pattern.is_match(name))?;
        Some(pattern.replace(name, to.as_str()).into_owned())
    }

    /// The names by which a format's readers know the parts of a layer, where they do.
    pub(crate) fn written_parts(&self, format: Format, name: &str) -> Option<Vec<String>> {
        let parts = 0..self.parts(name);
        parts
            .map(|part| self.written(format, &format!("{name}#{part}")))
            .collect()
    }

    /// Whether a layer is a vector without factors.
    pub(crate) fn is_norm(&self, name: &str) -> bool {
        self.norms.iter().any(|pattern| pattern.is_match(name))
    }

    /// The kernel of a layer that is a convolution in files.
    pub(crate) fn kernel(&self, name: &str) -> Option<&[usize]> {
        let row = self.kernels.iter().find(|(p, _)| p.is_match(name));
        row.map(|(_, kernel)| kernel.as_slice())
    }

    /// The ordered table from dotted spellings to canonical names, as `(pattern, replacement)`.
    pub fn rules(&self) -> impl Iterator<Item = (&str, &str)> {
        self.dotted.iter().map(|(r, t)| (r.as_str(), t.as_str()))
    }

    fn target(&self, name: &str) -> Option<(&Regex, &Target)> {
        let mut rows = self.patterns.iter().zip(&self.targets);
        rows.find(|(pattern, _)| pattern.is_match(name))
    }
}

fn matches(rules: &[(Regex, String)], name: &str) -> Vec<String> {
    rules
        .iter()
        .filter(|(pattern, _)| pattern.is_match(name))
        .map(|(pattern, to)| pattern.replace(name, to.as_str()).into_owned())
        .collect()
}

/// A whole-name pattern in which each `{i}` captures a number.
fn pattern(template: &str, separator: &str) -> Regex {
    let escaped = regex::escape(&template.replace('.', separator));
    let text = format!("^{}$", escaped.replace(r"\{i\}", "([0-9]+)"));
    Regex::new(&text).unwrap_or_else(|e| panic!("{text} is not a pattern: {e}"))
}

/// The replacement text in which each `{i}` is the number captured at the same place.
fn replacement(template: &str) -> String {
    let mut pieces = template.split("{i}");
    let mut text = pieces.next().unwrap_or_default().to_string();
    for (group, piece) in pieces.enumerate() {
        text += &format!("${{{}}}{piece}", group + 1);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> TargetTable {
        let qkv = Target {
            name: "blocks.{i}.attn.qkv",
            parts: 3,
            split: &["b.{i}.q", "b.{i}.k", "b.{i}.v"],
        };
        let nested = Target {
            name: "stages.{i}.blocks.{i}.fc",
            parts: 1,
            split: &[],
        };
        TargetTable::new(&[qkv, nested], &[("old.{i}.key", "blocks.{i}.attn.qkv#1")])
    }

    #[test]
    fn spellings_lead_to_canonical_names_and_parts() {
        let table = table();
        let canonical = |name: &str| table.canonical(name);
        assert_eq!(
            canonical("blocks.12.attn.qkv").as_deref(),
            Some("blocks.12.attn.qkv")
        );
        assert_eq!(canonical("b.3.v").as_deref(), Some("blocks.3.attn.qkv#2"));
        assert_eq!(
            canonical("old.0.key").as_deref(),
            Some("blocks.0.attn.qkv#1")
        );
        assert_eq!(
            canonical("stages.1.blocks.2.fc").as_deref(),
            Some("stages.1.blocks.2.fc")
        );
        for other in ["blocks.x.attn.qkv", "blocks.1.attn.qkv.more", "xb.3.v", ""] {
            assert_eq!(canonical(other), None);
        }
    }

    #[test]
    fn flattened_spellings_are_resolved_by_the_table() {
        let table = table();
        assert_eq!(
            table.unflatten("blocks_12_attn_qkv"),
            ["blocks.12.attn.qkv"]
        );
        assert_eq!(table.unflatten("b_7_k"), ["blocks.7.attn.qkv#1"]);
        assert!(table.unflatten("blocks_12_attn").is_empty());
    }

    #[test]
    fn parts_have_their_own_names() {
        let table = table();
        assert_eq!(table.parts("blocks.5.attn.qkv"), 3);
        assert_eq!(table.parts("stages.1.blocks.2.fc"), 1);
        assert_eq!(
            table.split_names("blocks.5.attn.qkv").as_deref(),
            Some(&["b.5.q", "b.5.k", "b.5.v"].map(String::from)[..])
        );
        assert_eq!(table.split_names("stages.1.blocks.2.fc"), None);
    }

    #[test]
    fn rules_are_printable_in_order() {
        let table = table();
        let rules: Vec<_> = table.rules().collect();
        assert_eq!(rules[2], (r"^b\.([0-9]+)\.k$", "blocks.${1}.attn.qkv#1"));
        assert_eq!(rules.len(), 6);
    }
}
