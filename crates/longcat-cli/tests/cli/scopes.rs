//! `--lora` that says where and when.

use std::fs;

use longcat_weights::{NamedTensor, WeightFiles, write_safetensors};

use crate::adapters::{SHORT, bundled, difference, text};
use crate::{fail, succeed};

#[test]
fn a_place_is_the_adapter_with_these_layers_alone() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let style = bundled("cfg_step_lora");
    // A file with the keys of these layers only, made without any code for scopes.
    let files = WeightFiles::open(&style).unwrap();
    let place = "blocks___lorahyphen___1___lorahyphen___attn___lorahyphen___";
    let keys: Vec<&str> = files.keys().filter(|key| key.contains(place)).collect();
    assert!(!keys.is_empty());
    let tensors: Vec<NamedTensor> = keys
        .iter()
        .map(|key| NamedTensor {
            name: key.to_string(),
            data: files.tensor_data(key).unwrap(),
        })
        .collect();
    let part = dir.join("part.safetensors");
    write_safetensors(&part, &tensors, files.metadata()).unwrap();

    let make = |output: &str, lora: &str| {
        let base = ["t2v", "a ring", "-o", output, "--lora", lora, "--json"];
        let json = succeed(dir, &[&base[..], &SHORT].concat());
        let result: serde_json::Value = serde_json::from_str(&json).unwrap();
        result["settings"]["generation"]["adapters"][0].clone()
    };
    make("part.latents.safetensors", "part.safetensors=4");
    let scoped = format!("{}=4@blocks.1@attn", text(&style));
    let used = make("scoped.latents.safetensors", &scoped);
    assert_eq!(used["scope"], "@blocks.1@attn");
    make("whole.latents.safetensors", &format!("{}=4", text(&style)));
    let list =
        format!("[[lora]]\npath = {style:?}\nstrength = 4\nwhere = [\"blocks.1\", \"attn\"]\n");
    fs::write(dir.join("list.toml"), list).unwrap();
    make("list.latents.safetensors", "list.toml");
    let differs = |name: &str| {
        let name = format!("{name}.latents.safetensors");
        difference(dir, "part.latents.safetensors", &name)
    };
    assert_eq!(differs("scoped"), 0.0);
    assert_eq!(differs("list"), 0.0);
    assert!(differs("whole") > 1e-3);

    // Written, it is that file.
    let combine = ["lora", "combine", &scoped, "-o", "combined.safetensors"];
    succeed(dir, &combine);
    let made = WeightFiles::open(&dir.join("combined.safetensors")).unwrap();
    assert_eq!(made.keys().count(), keys.len());
    assert!(made.keys().all(|key| key.contains(place)));
}

#[test]
fn what_no_scope_can_be_is_refused_before_work() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let style = bundled("cfg_step_lora");
    let t2v = ["t2v", "a ring", "-o", "a.mp4", "--steps", "4", "--lora"];
    for (code, scope, extra, word) in [
        (2, "@blocks.3-1", None, "@blocks.3-1"),
        (2, "@attn=0.5", None, "the strength comes before"),
        (2, "@steps.5-8", None, "none of the 4 steps"),
        (2, "@steps.1-2", Some("--merge"), "--merge"),
        (1, "@blocks.77", None, "@blocks.77"),
        (1, "@refine", None, "--refine"),
    ] {
        let lora = format!("{}{scope}", text(&style));
        let args: Vec<&str> = t2v.into_iter().chain([&lora[..]]).chain(extra).collect();
        let message = fail(dir, code, &args);
        assert!(message.contains(word), "{scope}: {message}");
    }
    let timed = format!("{}@steps.1-2", text(&style));
    let combine = ["lora", "combine", &timed, "-o", "b.safetensors"];
    assert!(fail(dir, 1, &combine).contains("steps"));
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
}

#[test]
fn adapters_act_in_the_stages_that_they_are_for() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let distilled = bundled("cfg_step_lora");
    let base = "t2v ring --refine --frames 1 --steps 1 --guidance 1 --json --lora".split(' ');
    let base: Vec<&str> = base.collect();
    let adapters = |output: &str, scope: &str| {
        let lora = format!("{}{scope}", text(&distilled));
        let args = [&base[..], &[&lora[..], "-o", output]].concat();
        let json = succeed(dir, &args);
        let result: serde_json::Value = serde_json::from_str(&json).unwrap();
        let count = |stage: &str| {
            result["settings"][stage]["adapters"]
                .as_array()
                .unwrap()
                .len()
        };
        (count("generation"), count("refinement"))
    };
    // The distilled adapter replaces guidance, which refining has none of.
    assert_eq!(adapters("a/", ""), (1, 1));
    assert_eq!(adapters("b/", "@first,refine"), (1, 2));
}
