//! Options of other programs, and what says the same here.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};

const PROMPT: &str = "the prompt stands by itself: longcat t2v \"a red circle\" -o circle.mp4";
const IMAGE: &str =
    "the picture stands by itself: longcat i2v first.png \"a red circle\" -o circle.mp4";
const VIDEO: &str = "the video stands by itself: longcat continue first.mp4 \"a red circle\" -o next.mp4, \
                     or longcat refine";
const SIZE: &str = "--size WIDTHxHEIGHT, as in --size 832x480";
const FRAMES: &str = "--frames N, 1 more than a multiple of 4, as in --frames 93";
const STEPS: &str = "--steps N";
const GUIDANCE: &str = "--guidance G";
const NEGATIVE: &str = "--negative TEXT";
const SEED: &str = "--seed N";
const OUTPUT: &str = "--output FILE, or -o FILE";
const LORA: &str = "--lora PATH=STRENGTH, as in --lora style.safetensors=0.8";
const MODEL: &str = "--model with a folder or a name; one file of a transformer after --dit";
const MEMORY: &str = "--memory AMOUNT, as in --memory 12GiB: what does not fit passes through the device part by part";
const PRECISION: &str = "--precision fp8, or int8, q8_0, q4_k";
const SCHEDULE: &str =
    "the model has one schedule; --steps and --guidance can be chosen, and --distill";
const DEVICE: &str = "--device cuda:0, or several, as in --device cuda:0,cuda:1";
const TRAINING: &str = "--config FILE says all of a run; examples/train/lora.toml shows what";

/// What options are called elsewhere, without dashes in front and with dashes inside, and what to say here.
const ELSEWHERE: &[(&[&str], &str)] = &[
    (&["p", "prompt", "text", "prompt-file"], PROMPT),
    (
        &[
            "i",
            "image",
            "image-path",
            "input-image",
            "first-frame",
            "start-image",
        ],
        IMAGE,
    ),
    (&["video", "video-path", "input-video"], VIDEO),
    (&["w", "width", "height", "resolution"], SIZE),
    (
        &[
            "num-frames",
            "frame-num",
            "video-length",
            "length",
            "video-frames",
        ],
        FRAMES,
    ),
    (
        &[
            "num-inference-steps",
            "num-steps",
            "sampling-steps",
            "sample-steps",
            "infer-steps",
        ],
        STEPS,
    ),
    (
        &[
            "cfg",
            "cfg-scale",
            "guidance-scale",
            "sample-guide-scale",
            "text-guidance-scale",
        ],
        GUIDANCE,
    ),
    (
        &["n", "negative-prompt", "neg-prompt", "n-prompt"],
        NEGATIVE,
    ),
    (&["s", "manual-seed", "base-seed", "noise-seed"], SEED),
    (
        &[
            "out",
            "output-path",
            "output-dir",
            "save-path",
            "save-file",
            "outdir",
        ],
        OUTPUT,
    ),
    (
        &[
            "lora-path",
            "lora-weight",
            "lora-weights",
            "lora-scale",
            "lora-strength",
            "lora-multiplier",
        ],
        LORA,
    ),
    (
        &[
            "m",
            "ckpt",
            "ckpt-dir",
            "checkpoint",
            "checkpoint-dir",
            "model-path",
            "model-id",
        ],
        MODEL,
    ),
    (
        &[
            "offload",
            "offload-model",
            "cpu-offload",
            "enable-model-cpu-offload",
            "blocks-to-swap",
            "lowvram",
            "novram",
        ],
        MEMORY,
    ),
    (
        &["fp8", "quantization", "quantize", "weight-dtype"],
        PRECISION,
    ),
    (&["torch-dtype"], "--dtype bf16, or f16, f32"),
    (
        &["sampler", "sampler-name", "scheduler", "sample-solver"],
        SCHEDULE,
    ),
    (&["gpu", "gpus", "gpu-id", "device-id", "cuda"], DEVICE),
    (
        &[
            "data",
            "dataset",
            "dataset-config",
            "train-data-dir",
            "instance-data-dir",
            "learning-rate",
            "rank",
        ],
        TRAINING,
    ),
];

fn here(option: &str) -> Option<&'static str> {
    let name = option.trim_start_matches('-').replace('_', "-");
    let mut rows = ELSEWHERE.iter();
    let row = rows.find(|(names, _)| names.contains(&name.as_str()));
    row.map(|(_, words)| *words)
}

/// An error of reading arguments; of an option that another program has it says what this one calls it, where the
/// command that was given takes that.
pub fn with_habits(mut error: Error, parser: &Command, args: &[OsString]) -> Error {
    let option = match (error.kind(), error.get(ContextKind::InvalidArg)) {
        (ErrorKind::UnknownArgument, Some(ContextValue::String(option))) => option,
        _ => return error,
    };
    let command = given(parser, args);
    let words = here(option).and_then(|words| {
        let known = [words, TRAINING];
        known.into_iter().find(|words| takes(command, words))
    });
    if let Some(words) = words {
        // What is spelt alike is not what is meant.
        error.remove(ContextKind::SuggestedArg);
        let tip = ContextValue::StyledStrs(vec![words.into()]);
        error.insert(ContextKind::Suggested, tip);
    }
    error
}

/// The command that arguments begin with, after the name of the program.
fn given<'a>(parser: &'a Command, args: &[OsString]) -> &'a Command {
    let mut command = parser;
    for arg in args.iter().skip(1) {
        match command.find_subcommand(arg) {
            Some(inner) => command = inner,
            None => break,
        }
    }
    command
}

/// Whether a command takes the option that words begin with, if they do.
fn takes(command: &Command, words: &str) -> bool {
    let Some(option) = words.strip_prefix("--") else {
        return true;
    };
    let name = option.split(' ').next();
    command.get_arguments().any(|arg| arg.get_long() == name)
}

#[cfg(test)]
mod tests {
    use super::super::Cli;
    use super::*;

    #[test]
    fn options_of_other_programs_lead_to_ours() {
        let said = |args: &str| {
            let args = format!("longcat {args}");
            let args: Vec<OsString> = args.split(' ').map(Into::into).collect();
            let read = Cli::parser().try_get_matches_from(&args);
            read.map_err(|error| with_habits(error, &Cli::parser(), &args).to_string())
                .err()
                .unwrap_or_default()
        };
        for (args, words) in [
            (
                "t2v --prompt cat -o a.mp4",
                "tip: the prompt stands by itself",
            ),
            (
                "t2v cat -o a.mp4 --width 512 --height 512",
                "tip: --size WIDTHxHEIGHT",
            ),
            (
                "t2v cat -o a.mp4 --num_inference_steps 20",
                "tip: --steps N",
            ),
            ("t2v cat -o a.mp4 --guidance_scale=4", "tip: --guidance G"),
            (
                "i2v --image a.png cat -o a.mp4",
                "tip: the picture stands by itself",
            ),
            ("train-lora --dataset clips", "tip: --config FILE"),
            ("train-lora --offload_model", "tip: --config FILE"),
        ] {
            let said = said(args);
            assert!(said.contains(words), "{said}");
            assert!(
                !said.contains("similar") && !said.contains("as a value"),
                "{said}"
            );
        }
        // What the command does not take is no help.
        let refine = said("refine a.mp4 cat -o b.mp4 --guidance_scale 3");
        assert!(!refine.contains("--guidance G"), "{refine}");
        // Those of a command that has an option of this name are read as that.
        assert!(said("t2v cat -o a.mp4 --sedd 3").contains("'--seed'"));
        assert_eq!(said("t2v cat -o a.mp4 --seed 3"), "");
    }
}
