//! Lists of adapters in TOML files.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use longcat_video::LoraScope;
use serde::Deserialize;

use crate::lora_arg::LoraArg;

/// A file of adapters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    lora: Vec<Entry>,
}

/// An adapter of a list.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// From the folder of the list, unless absolute.
    path: PathBuf,
    #[serde(default = "one")]
    strength: f64,
    /// Places.
    #[serde(default, rename = "where")]
    places: Parts,
    /// Steps and stages.
    #[serde(default, rename = "when")]
    times: Parts,
}

/// Parts of a scope, without `@`.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a text or a list of texts")]
enum Parts {
    One(String),
    All(Vec<String>),
}

impl Default for Parts {
    fn default() -> Self {
        Self::All(Vec::new())
    }
}

fn one() -> f64 {
    1.0
}

/// The adapters of a command line, with those of the lists among them in their places.
pub fn expand(loras: &[LoraArg]) -> Result<Vec<LoraArg>> {
    let mut all = Vec::with_capacity(loras.len());
    for lora in loras {
        if !is_list(&lora.path) {
            all.push(lora.clone());
            continue;
        }
        if *lora != LoraArg::new(&lora.path) {
            bail!(
                "{} is a list, whose adapters have strengths, places and steps of their own: name it alone",
                lora.path.display()
            );
        }
        all.extend(read(&lora.path)?);
    }
    Ok(all)
}

/// One adapter, where a list makes no sense.
pub fn single<'a>(option: &str, lora: &'a LoraArg) -> Result<&'a LoraArg> {
    if is_list(&lora.path) {
        bail!("{option} takes one adapter; lists of adapters are for --lora");
    }
    if lora.scope.stages.is_some() {
        bail!(
            "{option} says already in which stage the adapter acts; leave out @first and @refine"
        );
    }
    Ok(lora)
}

fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "toml")
}

fn read(path: &Path) -> Result<Vec<LoraArg>> {
    let shown = || path.display().to_string();
    let text = std::fs::read_to_string(path).with_context(shown)?;
    let list: List = toml::from_str(&text).with_context(shown)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let entries = list.lora.iter();
    entries
        .map(|entry| {
            let of = || format!("{}: {}", path.display(), entry.path.display());
            entry.in_folder(folder).with_context(of)
        })
        .collect()
}

impl Parts {
    fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::All(texts) => texts,
        }
    }

    fn scope(&self) -> Result<LoraScope> {
        let mut scope = LoraScope::default();
        for text in self.texts() {
            scope.and(text)?;
        }
        Ok(scope)
    }
}

impl Entry {
    /// The adapter, where a list in this folder names it.
    ///
    /// # Errors
    /// Says what its strength, places or steps cannot be.
    pub fn in_folder(&self, folder: &Path) -> Result<LoraArg> {
        if !self.strength.is_finite() {
            bail!("the strength {} is not finite", self.strength);
        }
        Ok(LoraArg {
            path: folder.join(&self.path),
            strength: self.strength,
            scope: self.scope()?,
        })
    }

    fn scope(&self) -> Result<LoraScope> {
        let (places, times) = (self.places.scope()?, self.times.scope()?);
        if places.steps.is_some() || places.stages.is_some() {
            bail!("steps and stages belong to `when`");
        }
        if !times.layers.is_everywhere() {
            bail!(
                "@{}: neither steps nor stages; places belong to `where`",
                self.times.texts().join("@")
            );
        }
        Ok(LoraScope {
            layers: places.layers,
            ..times
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_list_says_the_same_as_arguments() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("mine.toml");
        let text = r#"
            [[lora]]
            path = "style.safetensors"
            strength = 0.8
            where = ["blocks.10-30", "attn,ffn"]
            when = "steps.0-50%"

            [[lora]]
            path = "/far/motion.safetensors"
            when = ["steps.3-8", "first"]
        "#;
        std::fs::write(&list, text).unwrap();
        let style = dir.path().join("style.safetensors");
        let expected: [LoraArg; 2] = [
            format!("{}=0.8@blocks.10-30@attn,ffn@steps.0-50%", style.display())
                .parse()
                .unwrap(),
            "/far/motion.safetensors@steps.3-8@first".parse().unwrap(),
        ];
        assert_eq!(expand(&[LoraArg::new(&list)]).unwrap(), expected);
        let strong = LoraArg {
            strength: 2.0,
            ..LoraArg::new(&list)
        };
        assert!(
            expand(&[strong])
                .unwrap_err()
                .to_string()
                .contains("mine.toml")
        );
    }

    #[test]
    fn errors_name_list_and_adapter() {
        let dir = tempfile::tempdir().unwrap();
        let list = dir.path().join("mine.toml");
        for (entry, words) in [
            ("strength = nan", "not finite"),
            ("where = \"blocks.9-1\"", "@blocks.9-1"),
            ("where = \"steps.1\"", "`when`"),
            ("when = [\"attn\"]", "@attn: neither"),
            ("when = 3", "a text or a list of texts"),
            ("weight = 1", "weight"),
        ] {
            std::fs::write(&list, format!("[[lora]]\npath = \"a\"\n{entry}\n")).unwrap();
            let error = format!("{:#}", expand(&[LoraArg::new(&list)]).unwrap_err());
            assert!(
                error.contains("mine.toml") && error.contains(words),
                "{entry}: {error}"
            );
        }
    }
}
