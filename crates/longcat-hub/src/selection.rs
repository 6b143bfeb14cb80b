//! Which files of a repository are needed.

use std::collections::BTreeMap;

use glob::Pattern;

use crate::HubError;
use crate::error::bytes;
use crate::listing::ListedFile;

/// Weights that are read, the better ones first.
const WEIGHTS: [&str; 5] = [".safetensors", ".gguf", ".pth", ".pt", ".bin"];

/// What else models consist of: configs, indices and tokenizers.
const BESIDE: [&str; 2] = [".json", ".model"];

/// Files that are no model by themselves are smaller.
const LARGE: u64 = 1 << 30;

/// Which files of a repository are pulled: those that match one of the patterns to include, or, where
/// there are none, those that a model consists of; and of these those that match none to exclude.
///
/// In patterns `*` stands for any text, also with `/` in it, `?` for a character, `[ab]` for one of
/// several; a folder ends in `/`. They mean what `allow_patterns` and `ignore_patterns` mean to
/// `huggingface_hub`.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
}

impl Selection {
    /// # Errors
    /// [`HubError::Pattern`] names a pattern that cannot be read.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self, HubError> {
        Ok(Self {
            include: patterns(include)?,
            exclude: patterns(exclude)?,
        })
    }

    /// The files to pull.
    pub(crate) fn choose(
        &self,
        repo: &str,
        files: Vec<ListedFile>,
    ) -> Result<Vec<ListedFile>, HubError> {
        let names: Vec<String> = files.iter().map(|file| file.name.clone()).collect();
        let chosen: Vec<ListedFile> = files
            .into_iter()
            .filter(|file| match self.include.is_empty() {
                true => is_needed(&file.name, &names),
                false => matches(&self.include, &file.name),
            })
            .filter(|file| !matches(&self.exclude, &file.name))
            .collect();
        let none = |what: &str| HubError::NoFiles {
            repo: repo.into(),
            what: what.into(),
            files: shortened(&names),
        };
        let weights = chosen.iter().any(|file| is_weights(&file.name));
        match self.include.is_empty() {
            true if weights => one_of_several(repo, chosen),
            true => Err(none("weights (.safetensors, .gguf, .pth, .pt, .bin)")),
            false if chosen.is_empty() => Err(none("file that the patterns match")),
            false => Ok(chosen),
        }
    }
}

/// Whether a name is that of a file of weights: safetensors, GGUF, or what PyTorch writes.
pub fn is_weights(name: &str) -> bool {
    WEIGHTS.iter().any(|end| name.ends_with(end))
}

/// Whether a file is a part of a model that is read. Pictures, texts and licences are none, and neither
/// are PyTorch's files in a folder that has safetensors.
fn is_needed(name: &str, names: &[String]) -> bool {
    if name.split('/').any(|part| part.starts_with('.')) {
        return false;
    }
    let pickled = WEIGHTS[2..].iter().any(|end| name.ends_with(end));
    let better = |other: &String| folder(other) == folder(name) && other.ends_with(WEIGHTS[0]);
    match pickled {
        true => !names.iter().any(better),
        false => is_weights(name) || BESIDE.iter().any(|end| name.ends_with(end)),
    }
}

/// Repositories of single files often have one model several times, in several types: then a person
/// chooses, before tens of gigabytes come for nothing.
fn one_of_several(repo: &str, chosen: Vec<ListedFile>) -> Result<Vec<ListedFile>, HubError> {
    let directory = |name: &str| name.starts_with("dit/") || name.starts_with("transformer/");
    if chosen.iter().any(|file| directory(&file.name)) {
        return Ok(chosen);
    }
    let mut folders: BTreeMap<&str, Vec<&ListedFile>> = BTreeMap::new();
    for file in &chosen {
        let large = file.size.is_some_and(|size| size >= LARGE);
        let adapter = file.name.to_lowercase().contains("lora");
        if large && is_weights(&file.name) && !adapter && !is_shard(&file.name) {
            folders.entry(folder(&file.name)).or_default().push(file);
        }
    }
    let Some(several) = folders.into_values().find(|files| files.len() > 1) else {
        return Ok(chosen);
    };
    let shown = several
        .iter()
        .map(|file| format!("{} ({})", file.name, bytes(file.size.unwrap_or_default())));
    Err(HubError::Choice {
        repo: repo.into(),
        files: shown.collect::<Vec<_>>().join(", "),
        example: several[0].name.clone(),
    })
}

/// Whether a name is that of one of several files with one network: `model-00001-of-00005.safetensors`.
fn is_shard(name: &str) -> bool {
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    let mut parts = stem.rsplitn(4, '-');
    let number = |part: Option<&str>| {
        part.is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
    };
    number(parts.next()) && parts.next() == Some("of") && number(parts.next())
}

fn folder(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

fn matches(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(name))
}

fn patterns(texts: &[String]) -> Result<Vec<Pattern>, HubError> {
    let read = |text: &String| {
        let inside = if text.ends_with('/') { "*" } else { "" };
        Pattern::new(&format!("{text}{inside}")).map_err(|error| HubError::Pattern {
            pattern: text.clone(),
            reason: error.to_string(),
        })
    };
    texts.iter().map(read).collect()
}

fn shortened(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut shown = names[..names.len().min(SHOWN)].join(", ");
    if names.len() > SHOWN {
        shown += &format!(" and {} more", names.len() - SHOWN);
    }
    match shown.is_empty() {
        true => "no files".into(),
        false => shown,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn chosen(names: &[(&str, u64)], selection: &Selection) -> Result<Vec<String>, HubError> {
        let listed = names.iter().map(|(name, size)| ListedFile {
            name: name.to_string(),
            size: Some(*size),
            blob: None,
        });
        let files = selection.choose("a/b", listed.collect())?;
        Ok(files.into_iter().map(|file| file.name).collect())
    }

    #[test]
    fn a_model_is_what_is_read_of_its_repository() {
        let files = [
            (".gitattributes", 1),
            ("README.md", 1),
            ("LICENSE", 1),
            ("assets/demo.mp4", 1 << 20),
            ("dit/config.json", 1),
            ("dit/x-00001-of-00002.safetensors", 5 << 30),
            ("dit/x-00002-of-00002.safetensors", 5 << 30),
            ("dit/x.safetensors.index.json", 1),
            ("lora/cfg_step_lora.safetensors", 3 << 30),
            ("lora/refinement_lora.safetensors", 3 << 30),
            ("text_encoder/pytorch_model.bin", 20 << 30),
            ("text_encoder/model.safetensors", 10 << 30),
            ("tokenizer/spiece.model", 1),
            ("vae/vae.pth", 1 << 28),
        ];
        let needed = chosen(&files, &Selection::default()).unwrap();
        let left_out = |name: &&str| !needed.iter().any(|n| n == *name);
        let names = files.map(|(name, _)| name);
        let left_out: Vec<&str> = names.into_iter().filter(left_out).collect();
        let expected = [".gitattributes", "README.md", "LICENSE", "assets/demo.mp4"];
        assert_eq!(left_out[..4], expected);
        assert_eq!(left_out[4..], ["text_encoder/pytorch_model.bin"]);
    }

    #[test]
    fn one_of_several_models_is_for_a_person_to_choose() {
        let files = [
            ("x_Q4_K_M.gguf", 8 << 30),
            ("x_Q8_0.gguf", 14 << 30),
            ("x_lora_a.safetensors", 2 << 30),
            ("x_lora_b.safetensors", 2 << 30),
        ];
        let error = chosen(&files, &Selection::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("x_Q4_K_M.gguf (8.0 GiB), x_Q8_0.gguf (14.0 GiB);"),
            "{error}"
        );
        assert!(error.contains("--include \"x_Q4_K_M.gguf\""), "{error}");
        let one = |include: &str, exclude: &[&str]| {
            let exclude: Vec<String> = exclude.iter().map(|text| text.to_string()).collect();
            chosen(
                &files,
                &Selection::new(&[include.into()], &exclude).unwrap(),
            )
            .unwrap()
        };
        assert_eq!(one("*Q4*", &[]), ["x_Q4_K_M.gguf"]);
        assert_eq!(one("*", &["*.gguf", "*_b.*"]), ["x_lora_a.safetensors"]);
        let only = Selection::new(&[], &["*Q8_0*".into()]).unwrap();
        assert_eq!(chosen(&files, &only).unwrap().len(), 3);
    }

    #[test]
    fn what_matches_nothing_is_an_error_that_shows_what_there_is() {
        let files = [("README.md", 1), ("data/a.csv", 1)];
        let error = chosen(&files, &Selection::default())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("no weights") && error.contains("data/a.csv"),
            "{error}"
        );
        let folder = Selection::new(&["data/".into()], &[]).unwrap();
        assert_eq!(chosen(&files, &folder).unwrap(), ["data/a.csv"]);
        let nothing = Selection::new(&["*.gguf".into()], &[]).unwrap();
        assert!(chosen(&files, &nothing).is_err());
        assert!(matches!(
            Selection::new(&["a[".into()], &[]),
            Err(HubError::Pattern { .. })
        ));
    }
}
