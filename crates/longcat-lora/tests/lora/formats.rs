//! Every golden adapter file is read, and all that hold the same adapter give the same numbers.

use longcat_lora::{AdapterReport, Format, LoraOptions, LoraRegistry};

use crate::common::*;

const SAME: [&str; 8] = [
    "comfyui",
    "diffsynth",
    "diffusers",
    "diffusers_metadata",
    "diffusion_pipe",
    "kohya",
    "official",
    "peft",
];

fn path(name: &str) -> String {
    let case = case(&format!("lora_formats_{name}"));
    case["params"]["adapter"].as_str().unwrap().to_string()
}

#[test]
fn files_of_the_same_adapter_have_the_same_deltas() {
    let official = read(&path("official"));
    assert!(!official.is_empty());
    for name in SAME {
        let adapter = read(&path(name));
        let names =
            |a: &longcat_lora::Adapter| a.targets().map(|(n, _)| n.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&adapter), names(&official), "{name}");
        for (target, blocks) in adapter.targets() {
            let error = relative_error(&delta(blocks), &delta(official.get(target).unwrap()));
            assert!(error < 1e-6, "{name} {target}: {error}");
        }
    }
}

#[test]
fn files_with_an_explicit_scale_have_the_same_factors() {
    let official = read(&path("official"));
    for name in ["comfyui", "diffusers_metadata", "kohya", "peft"] {
        let adapter = read(&path(name));
        for (target, blocks) in adapter.targets() {
            assert_eq!(blocks, official.get(target).unwrap(), "{name} {target}");
        }
    }
}

#[test]
fn rslora_divides_alpha_by_the_root_of_the_rank() {
    let case = case("lora_formats_peft_rslora");
    let (rank, alpha) = (&case["params"]["rank"], &case["params"]["alpha"]);
    let expected = alpha.as_f64().unwrap() / rank.as_f64().unwrap().sqrt();
    for (_, blocks) in read(&path("peft_rslora")).targets() {
        assert_eq!(blocks[0].scale, expected);
    }
}

#[test]
fn fastvideo_files_fuse_back_into_the_official_ones() {
    for name in ["fastvideo_cfg_step", "fastvideo_refinement"] {
        let adapter = read(&path(name));
        let source = case(&format!("lora_formats_{name}"));
        let official = read(source["params"]["source"].as_str().unwrap());
        assert_eq!(adapter.len(), official.len());
        for (target, blocks) in adapter.targets() {
            assert_eq!(blocks, official.get(target).unwrap(), "{name} {target}");
        }
    }
}

#[test]
fn formats_are_recognised_and_reported() {
    let expected = [
        ("comfyui", Format::ComfyUi),
        ("diffsynth", Format::DiffSynth),
        ("diffusers", Format::Diffusers),
        ("diffusion_pipe", Format::ComfyUi),
        ("fastvideo_cfg_step", Format::FastVideo),
        ("kohya", Format::Kohya),
        ("official", Format::Official),
        ("peft", Format::Peft),
    ];
    for (name, format) in expected {
        let report = AdapterReport::inspect(&golden(&path(name)), table()).unwrap();
        assert_eq!(report.format, format);
        assert!(report.problems.is_empty() && report.unmatched.is_empty());
        assert!(
            serde_json::to_string(&report)
                .unwrap()
                .contains("blocks.*.attn.qkv")
        );
    }
    let report = AdapterReport::inspect(&golden(&path("kohya")), table()).unwrap();
    assert_eq!(report.metadata["ss_network_alpha"], "9");
    assert_eq!(report.ranks.keys().copied().collect::<Vec<_>>(), [6]);
    assert_eq!(report.scales, [(1.5, report.layers)]);
    assert_eq!(report.dtypes["f32"], 2 * report.layers);
}

#[test]
fn every_golden_adapter_loads_on_the_model() {
    let names =
        SAME.into_iter()
            .chain(["peft_rslora", "fastvideo_cfg_step", "fastvideo_refinement"]);
    for name in names {
        let mut host = Host::tiny();
        let adapter = read(&path(name));
        let report = host
            .load_adapter(name, &adapter, LoraOptions::default())
            .unwrap();
        assert_eq!(report.applied.len(), adapter.len());
        assert_eq!(
            report.applied.len() + report.untouched.len(),
            host.layers.len()
        );
    }
}
