//! Reading the file; unknown keys.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::TrainConfig;
use super::parse::{Problem, typed};
use super::raw::RawConfig;
use crate::TrainError;

/// Reads and checks a training configuration. Relative paths become relative to its folder.
///
/// # Errors
/// [`TrainError::Config`] names the key: unknown (with the nearest known one), of the wrong type,
/// or with a value that cannot work; [`TrainError::Io`].
pub fn read_config(path: &Path) -> Result<TrainConfig, TrainError> {
    let text = std::fs::read_to_string(path).map_err(|e| TrainError::io(path, e))?;
    TrainConfig::parse(&text, path)
}

/// Keys that only the trainer of `examples/miniature` has.
const MOVED: &[&str] = &[
    "vae",
    "model.random_weights",
    "model.train_text_encoder",
    "objective.guidance",
    "objective.own_continuation",
    "objective.own_guidance",
];

fn parse(text: &str, file: &Path) -> Result<TrainConfig, Problem> {
    let syntax = |e: toml::de::Error| ("TOML".to_string(), e.to_string());
    let table: Table = toml::from_str(text).map_err(syntax)?;
    let known = Table::try_from(RawConfig::default())
        .map_err(|e| ("defaults".to_string(), e.to_string()))?;
    unknown_keys(&table, &known, "")?;
    // From the text, so that errors show the line.
    let mut raw: RawConfig = toml::from_str(text).map_err(syntax)?;
    let folder = file.parent().unwrap_or(Path::new(""));
    for path in [
        &mut raw.output,
        &mut raw.model.checkpoint,
        &mut raw.data.path,
        &mut raw.cache.path,
        &mut raw.lora.start_from,
        &mut raw.validation.path,
    ] {
        if !path.as_os_str().is_empty() {
            *path = folder.join(&*path);
        }
    }
    if raw.cache.path.as_os_str().is_empty() {
        raw.cache.path = raw.output.join("cache");
    }
    typed(&raw, file.to_path_buf(), text)
}

fn unknown_keys(given: &Table, known: &Table, prefix: &str) -> Result<(), Problem> {
    for (key, value) in given {
        let name = format!("{prefix}{key}");
        match (known.get(key), value) {
            (None, _) => {
                let reason = match nearest(key, known) {
                    _ if MOVED.contains(&name.as_str()) => {
                        "only the trainer of examples/miniature has this key".to_string()
                    }
                    Some(near) => format!("unknown key; did you mean {prefix}{near}?"),
                    None => {
                        let all: Vec<&str> = known.keys().map(String::as_str).collect();
                        format!("unknown key; known here: {}", all.join(", "))
                    }
                };
                return Err((name, reason));
            }
            (Some(Value::Table(known)), Value::Table(given)) => {
                unknown_keys(given, known, &format!("{name}."))?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// The known key most like a misspelt one, if any is alike.
fn nearest<'a>(key: &str, known: &'a Table) -> Option<&'a str> {
    known
        .keys()
        .map(|k| (strsim::jaro_winkler(key, k), k.as_str()))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, k)| k)
}

impl TrainConfig {
    /// As [`read_config`], of the text of a file. Its relative paths are relative to that of `file`.
    ///
    /// # Errors
    /// [`TrainError::Config`] names the key.
    pub fn parse(text: &str, file: &Path) -> Result<Self, TrainError> {
        parse(text, file).map_err(|(key, reason)| TrainError::Config {
            path: file.to_path_buf(),
            key,
            reason,
        })
    }

    /// All settings, as a saved state remembers them.
    pub(crate) fn settings(&self) -> &serde_json::Value {
        &self.settings
    }

    /// The checkpoint directory.
    ///
    /// # Errors
    /// [`TrainError::Config`] where none is given.
    pub fn checkpoint(&self) -> Result<&Path, TrainError> {
        self.model.checkpoint.as_deref().ok_or_else(|| {
            let reason = "name the checkpoint directory that training starts from";
            self.problem("model.checkpoint", reason)
        })
    }

    /// Forward passes per step of each of so many ranks.
    ///
    /// # Errors
    /// [`TrainError::Config`] where `train.global_batch` cannot be dealt out to them.
    pub fn accumulation(&self, ranks: usize) -> Result<usize, TrainError> {
        let (batch, global) = (self.train.batch, self.train.global_batch);
        let at_once = batch * ranks;
        if global == 0 {
            return Ok(self.train.accumulation);
        }
        if !global.is_multiple_of(at_once) {
            let reason = format!(
                "{global} clips per step cannot be dealt out to {ranks} ranks that take {batch} at a \
                 time (train.batch); a multiple of {at_once} can"
            );
            return Err(self.problem("train.global_batch", reason));
        }
        Ok(global / at_once)
    }

    /// Where checkpoints lie.
    pub(crate) fn checkpoint_dir(&self) -> PathBuf {
        self.output.join("checkpoints")
    }

    /// The error that says that the value of a key does not work.
    pub fn problem(&self, key: &str, reason: impl Into<String>) -> TrainError {
        TrainError::Config {
            path: self.file.clone(),
            key: key.into(),
            reason: reason.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use longcat_video::MemoryLimit;

    use super::*;
    use crate::config::{BaseWeights, Objective, Precision};

    const MINIMAL: &str = r#"
        output = "run"
        [model]
        checkpoint = "weights"
        [data]
        path = "clips"
        [train]
        steps = 10
    "#;

    fn problem(extra: &str) -> String {
        let (key, reason) =
            parse(&format!("{MINIMAL}{extra}"), Path::new("/x/run.toml")).unwrap_err();
        format!("{key}: {reason}")
    }

    #[test]
    fn paths_are_relative_to_the_file_and_the_rest_has_defaults() {
        let config = parse(MINIMAL, Path::new("/x/run.toml")).unwrap();
        assert_eq!(config.data.path, Path::new("/x/clips"));
        assert_eq!(config.cache.path, Path::new("/x/run/cache"));
        assert_eq!(config.lora.adapter.rank, 64);
    }

    #[test]
    fn misspelt_keys_are_named_with_the_right_spelling() {
        let message = problem("[lora]\nrnak = 4");
        assert!(
            message.contains("lora.rnak") && message.contains("lora.rank"),
            "{message}"
        );
        let message = problem("[optimiser]\nlearning_rate = 1.0");
        assert!(message.contains("optimizer"), "{message}");
        let message = problem("[optimizer]\nlearnign_rate = 1.0");
        assert!(message.contains("optimizer.learning_rate"), "{message}");
        let message = problem("[lora]\nzzz = 1");
        assert!(
            message.contains("known here: ") && message.contains("rank"),
            "{message}"
        );
    }

    #[test]
    fn values_that_cannot_work_are_named() {
        for (extra, key) in [
            ("[lora]\nrank = 0", "lora.rank"),
            ("[lora]\nrank = \"x\"", "rank"),
            ("[lora]\ntargets = [\"(\"]", "lora.targets"),
            ("[lora]\ndropout = 1.0", "lora.dropout"),
            ("[objective]\nshift = 0.0", "objective.shift"),
            (
                "[objective]\nimage_condition = 0.7\ncontinuation = 0.5",
                "objective.continuation",
            ),
            ("[objective]\nrefine = 1.5", "objective.refine"),
            (
                "[objective]\nrefine = 0.5\nimage_condition = 0.1",
                "objective.refine",
            ),
            (
                "[objective]\nrefine = 0.5\n[distill]\nguidance = 4.0",
                "objective.refine",
            ),
            ("[distill]\nguidance = -1.0", "distill.guidance"),
            ("[distill]\nsteps = 0", "distill.steps"),
            (
                "[objective]\ncaption_dropout = 2.0",
                "objective.caption_dropout",
            ),
            (
                "[optimizer]\nlearning_rate = -1.0",
                "optimizer.learning_rate",
            ),
            ("[optimizer]\nema_decay = 1.0", "optimizer.ema_decay"),
            ("[optimizer]\nschedule = \"step\"", "constant"),
            (
                "[validation]\nevery = 5\nsigmas = [1.5]",
                "validation.sigmas",
            ),
            ("[samples]\nevery = 5", "samples.prompts"),
            ("[samples]\nformat = \"avi\"", "samples.format"),
            (
                "[checkpoints]\nformat = \"fastvideo\"",
                "checkpoints.format",
            ),
            ("[checkpoints]\nformat = \"lycoris\"", "checkpoints.format"),
            ("[cache]\ntext_length = 0", "cache.text_length"),
            ("accumulation = 2\nglobal_batch = 8", "train.accumulation"),
        ] {
            let message = problem(extra);
            assert!(message.contains(key), "{extra}: {message}");
        }
    }

    #[test]
    fn a_global_batch_is_dealt_out_to_ranks_that_divide_it() {
        let with = |keys: &str| parse(&format!("{MINIMAL}{keys}"), Path::new("/x/run.toml"));
        let config = with("batch = 2\nglobal_batch = 12").unwrap();
        for (ranks, passes) in [(1, 6), (2, 3), (3, 2), (6, 1)] {
            assert_eq!(config.accumulation(ranks).unwrap(), passes);
        }
        let error = config.accumulation(4).unwrap_err().to_string();
        assert!(
            error.contains("train.global_batch") && error.contains("a multiple of 8"),
            "{error}"
        );
        let each = with("accumulation = 3").unwrap();
        assert_eq!(each.accumulation(4).unwrap(), 3);
    }

    /// Floats as they are after a setting in f32, which some are.
    fn in_f32(value: Value) -> Value {
        match value {
            Value::Float(number) => Value::Float(f64::from(number as f32)),
            Value::Array(list) => Value::Array(list.into_iter().map(in_f32).collect()),
            Value::Table(table) => {
                let entries = table.into_iter();
                Value::Table(entries.map(|(key, value)| (key, in_f32(value))).collect())
            }
            other => other,
        }
    }

    #[test]
    fn the_documented_file_holds_every_key_with_its_default() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/train/lora.toml");
        read_config(&file).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        let mut documented: Table = toml::from_str(&text).unwrap();
        let mut defaults = Table::try_from(RawConfig::default()).unwrap();
        // Those without a default, and those of a released checkpoint on CUDA.
        for (section, key) in [
            ("", "output"),
            ("data", "path"),
            ("model", "checkpoint"),
            ("model", "precision"),
        ] {
            for table in [&mut documented, &mut defaults] {
                let table = match section {
                    "" => table,
                    section => table[section].as_table_mut().unwrap(),
                };
                assert!(table.remove(key).is_some(), "{section}.{key}");
            }
        }
        assert_eq!(in_f32(documented.into()), in_f32(defaults.into()));
        for line in text.lines().filter(|line| line.contains(" = ")) {
            let explained = line.contains('#') || line.starts_with("targets");
            assert!(explained, "{line} has no explanation");
        }
    }

    #[test]
    fn memory_is_an_amount_for_frozen_blocks() {
        let with = |extra: &str| parse(&format!("{extra}{MINIMAL}"), Path::new("/x/run.toml"));
        assert_eq!(with("").unwrap().memory, MemoryLimit::Auto);
        let limited = with("memory = \"24GiB\"\n").unwrap();
        assert_eq!(limited.memory, MemoryLimit::AtMost(24 << 30));
        assert_eq!(with("memory = \"24\"\n").unwrap_err().0, "memory");
    }

    #[test]
    fn packed_weights_are_frozen_and_computed_with_in_a_type_of_floats() {
        let with = |first: &str, keys: &str| {
            let text = MINIMAL.replace("[data]", &format!("{keys}\n[data]"));
            parse(&format!("{first}{text}"), Path::new("/x/run.toml"))
        };
        let model = with("", "precision = \"fp8\"\ndtype = \"bf16\"")
            .unwrap()
            .model;
        assert_eq!(model.precision, BaseWeights::Fp8);
        assert_eq!(model.dtype, Precision::Bf16);
        let floats = with("", "precision = \"bf16\"").unwrap().model;
        assert_eq!(floats.dtype, Precision::Bf16);
        let two = with("", "precision = \"bf16\"\ndtype = \"f16\"").unwrap_err();
        assert_eq!(two.0, "model.dtype");
        let whole = with("mode = \"full\"\n", "precision = \"q4_k\"").unwrap_err();
        assert_eq!(whole.0, "model.precision");
    }

    #[test]
    fn streamed_blocks_are_frozen_and_recomputed() {
        let refusal = |first: &str, last: &str| {
            let streaming = MINIMAL.replace("[data]", "streamed_blocks = 2\n[data]");
            let text = format!("{first}{streaming}{last}");
            parse(&text, Path::new("/x/run.toml")).unwrap_err().0
        };
        let whole = refusal("mode = \"full\"\n", "");
        assert_eq!(whole, "model.streamed_blocks");
        let one_graph = refusal("", "checkpointing = false\n");
        assert_eq!(one_graph, "train.checkpointing");
    }

    #[test]
    fn keys_of_the_laboratory_say_where_they_are() {
        for (extra, key) in [
            ("[vae]\nkl_weight = 1e-6", "vae"),
            ("[objective]\nguidance = 1.5", "objective.guidance"),
            (
                "[objective]\nown_continuation = 0.5",
                "objective.own_continuation",
            ),
        ] {
            let message = problem(extra);
            assert!(
                message.starts_with(key) && message.contains("miniature"),
                "{message}"
            );
        }
    }

    #[test]
    fn numbers_that_stand_for_nothing_become_none() {
        let config = parse(MINIMAL, Path::new("/x/run.toml")).unwrap();
        assert_eq!(config.optimizer.max_grad_norm, Some(1.0));
        assert_eq!(config.optimizer.ema_decay, None);
        assert_eq!((config.validation, config.samples), (None, None));
        assert_eq!(config.lora.start_from, None);
        let text = format!("{MINIMAL}[distill]\nguidance = 1.0");
        let config = parse(&text, Path::new("/x/run.toml")).unwrap();
        let Objective::Distill {
            guidance, steps, ..
        } = config.objective
        else {
            panic!("{:?}", config.objective);
        };
        assert_eq!((guidance, steps), (None, 16));
    }

    #[test]
    fn sizes_and_frames_are_checked() {
        for (line, key) in [
            ("sizes = [\"832\"]", "data.sizes"),
            ("sizes = []", "data.sizes"),
            ("sizes = [\"840x480\"]", "data.sizes"),
            ("sizes = [\"0x16\"]", "data.sizes"),
            ("frames = [32]", "data.frames"),
            ("repeats = 0", "data.repeats"),
        ] {
            let text = MINIMAL.replace("path = \"clips\"", &format!("path = \"clips\"\n{line}"));
            let (found, reason) = parse(&text, Path::new("/x/run.toml")).unwrap_err();
            assert_eq!(found, key, "{reason}");
        }
    }
}
