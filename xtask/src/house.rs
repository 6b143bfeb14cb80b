//! Rules of the house that no compiler checks: the order of the crates, what is published, how long
//! a file may be, what the guides quote.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::quotes;

/// The crates from top to bottom, a row per floor: a crate depends on lower floors only.
const FLOORS: &[&[&str]] = &[
    &["xtask", "longcat-tests", "longcat-examples"],
    &["longcat-miniature"],
    &["longcat-cli"],
    &["longcat-runtime", "longcat-serve"],
    &["longcat-train"],
    &["longcat-video"],
    &["longcat-dit", "longcat-vae", "longcat-text"],
    &["longcat-lora"],
    &["longcat-weights"],
    &[
        "longcat-kernels",
        "longcat-media",
        "longcat-hub",
        "longcat-builtin",
        "longcat-shapes",
    ],
    &["longcat-partial"],
];

/// Lines that a source file may have: what fits in one sitting.
const MOST_LINES: usize = 500;

/// Checks all rules and names everything that breaks one.
pub fn check() -> Result<()> {
    let mut problems = Vec::new();
    arrows(&mut problems)?;
    files(&mut problems)?;
    quotes::check(&mut problems)?;
    if problems.is_empty() {
        return Ok(());
    }
    bail!(
        "{} rules of the house are broken:\n{}",
        problems.len(),
        problems.join("\n")
    )
}

/// The names of the crates that are published.
pub fn published() -> Result<Vec<String>> {
    let metadata = metadata()?;
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let published = packages.iter().filter(|package| is_published(package));
    Ok(published.map(name).collect())
}

fn metadata() -> Result<Value> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .output()
        .context("running cargo metadata")?;
    serde_json::from_slice(&output.stdout).context("reading cargo metadata")
}

fn name(value: &Value) -> String {
    value["name"].as_str().unwrap_or_default().to_string()
}

/// `publish = false` is an empty list of registries.
fn is_published(package: &Value) -> bool {
    package["publish"].is_null()
}

/// Crate arrows point down, and nothing published depends on what is not.
fn arrows(problems: &mut Vec<String>) -> Result<()> {
    let metadata = metadata()?;
    let packages = metadata["packages"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let published: BTreeMap<String, bool> = packages
        .iter()
        .map(|package| (name(package), is_published(package)))
        .collect();
    let floor = |crate_name: &str| FLOORS.iter().position(|row| row.contains(&crate_name));
    for package in packages {
        let from = name(package);
        let Some(floor_from) = floor(&from) else {
            problems.push(format!("{from}: has no floor in xtask/src/house.rs"));
            continue;
        };
        let dependencies = package["dependencies"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        for dependency in dependencies {
            let to = name(dependency);
            let Some(to_published) = published.get(&to) else {
                continue;
            };
            let development = dependency["kind"] == "dev";
            if !development && floor(&to).is_none_or(|floor_to| floor_to <= floor_from) {
                problems.push(format!("{from} -> {to}: this arrow does not point down"));
            }
            // Cargo leaves development dependencies without a version out of the package.
            let packaged = !development || dependency["req"] != "*";
            if published[&from] && !to_published && packaged {
                problems.push(format!(
                    "{from} -> {to}: a published crate needs an unpublished one"
                ));
            }
        }
    }
    Ok(())
}

/// Every source file says what lives there and fits in one sitting.
fn files(problems: &mut Vec<String>) -> Result<()> {
    let output = Command::new("git")
        .args(["ls-files", "*.rs"])
        .output()
        .context("running git ls-files")?;
    let listed = String::from_utf8(output.stdout).context("reading git ls-files")?;
    for file in listed.lines().filter(|file| Path::new(file).is_file()) {
        let text = fs::read_to_string(file).with_context(|| format!("reading {file}"))?;
        let lines = text.lines().count();
        if lines > MOST_LINES {
            problems.push(format!("{file}: {lines} lines are more than {MOST_LINES}"));
        }
        if !text.starts_with("//!") {
            problems.push(format!(
                "{file}: the first line does not say what lives here (//!)"
            ));
        }
    }
    Ok(())
}
