//! The recipes, by the README, in few steps of few clips.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use longcat_train::{Metric, read_metrics};
use tempfile::TempDir;
use toml::{Table, Value};

/// A stand-in for `target/miniature`.
struct Target {
    dir: TempDir,
}

impl Target {
    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_string()
    }

    fn miniature(&self, arguments: &[&str]) -> String {
        let program = Command::new(env!("CARGO_BIN_EXE_miniature"))
            .args(arguments)
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&program.stderr);
        assert!(program.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(program.stdout).unwrap()
    }

    fn shapes(&self, name: &str, count: &str, more: &[&str]) {
        let output = self.path(name);
        let arguments = ["make-shapes", "--output", &output, "--count", count];
        self.miniature(&[&arguments, more].concat());
    }

    /// Trains a recipe for two steps of a clip each, without samples, and checks the losses.
    fn train(&self, recipe: &str) {
        let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
        let text = fs::read_to_string(recipes.join(format!("{recipe}.toml"))).unwrap();
        let text = text
            .replace(
                "../../../target/miniature",
                self.dir.path().to_str().unwrap(),
            )
            // As the recipe says for a CPU.
            .replace("precision = \"bf16\"", "precision = \"f32\"");
        let mut table: Table = toml::from_str(&text).unwrap();
        let mut set = |section: &str, key: &str, value: i64| {
            let section = table[section].as_table_mut().unwrap();
            assert!(section.contains_key(key), "{recipe}: {key}");
            section.insert(key.to_string(), Value::Integer(value));
        };
        set("train", "steps", 2);
        set("train", "batch", 1);
        set("optimizer", "warmup_steps", 1);
        if text.contains("[validation]") {
            set("validation", "every", 2);
        }
        let log = table["train"].as_table_mut().unwrap();
        log.insert("log_every".to_string(), Value::Integer(1));
        let config = self.path(&format!("{recipe}.toml"));
        fs::write(&config, toml::to_string(&table).unwrap()).unwrap();
        self.miniature(&["train", "--config", &config]);
        let lines = read_metrics(&PathBuf::from(self.path(recipe)).join("metrics.jsonl")).unwrap();
        let losses: Vec<f64> = lines
            .iter()
            .filter_map(|line| match line {
                Metric::Step { loss, .. } => Some(*loss),
                Metric::Validation { .. } => None,
            })
            .collect();
        assert_eq!(losses.len(), 2, "{recipe}");
        assert!(losses.iter().all(|loss| loss.is_finite()), "{losses:?}");
    }

    fn install(&self, source: &str, target: &str) {
        let (source, target) = (self.path(source), self.path(target));
        self.miniature(&["install-part", &source, &target]);
    }
}

#[test]
fn every_recipe_trains_in_the_order_of_the_readme() {
    let target = Target {
        dir: tempfile::tempdir().unwrap(),
    };
    target.miniature(&["make-checkpoint", "--output", &target.path("model")]);
    target.shapes("clips", "3", &["--seed", "1", "--later", "0.9"]);
    target.shapes("held-out", "1", &["--seed", "2", "--split", "held-out"]);
    target.shapes("refined", "2", &["--seed", "3", "--refined"]);
    target.shapes("hearts", "2", &["--seed", "4", "--heart"]);
    target.shapes("long", "2", &["--seed", "5", "--frames", "45"]);

    target.train("vae");
    target.install("vae/vae-average", "model/vae");
    target.train("vae-long");
    target.install("vae-long/vae-average", "model/vae");
    target.train("dit");
    target.install("dit/dit-average", "model/dit");
    target.install("dit/text_encoder-average", "model/text_encoder");
    target.shapes("clips", "2", &["--seed", "1"]);
    target.train("distill");
    let adapter = "model/lora/cfg_step_lora.safetensors";
    target.install("distill/adapter-average.safetensors", adapter);
    target.train("refine");
    let adapter = "model/lora/refinement_lora.safetensors";
    target.install("refine/adapter-average.safetensors", adapter);
    target.train("heart");

    let model = target.path("model");
    let report = target.miniature(&[
        "judge",
        "text",
        "--model",
        &model,
        "--count",
        "1",
        "--distill",
        "--json",
    ]);
    assert!(report.contains("\"clips\":1"), "{report}");
}
