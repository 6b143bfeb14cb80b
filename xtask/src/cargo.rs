//! Cargo's own commands, as this project calls them.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::house;

/// Runs a command of Cargo and shows it.
pub fn run(command: &str, args: &[&str]) -> Result<()> {
    finish(cargo(command, args), command)
}

fn cargo<S: AsRef<OsStr>>(command: &str, args: &[S]) -> Command {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.arg(command).args(args);
    cargo
}

fn finish(mut command: Command, what: &str) -> Result<()> {
    eprintln!("$ {command:?}");
    let status = command
        .status()
        .with_context(|| format!("starting cargo {what}"))?;
    if !status.success() {
        bail!("cargo {what} failed ({status})");
    }
    Ok(())
}

/// What lints are told.
const LINTS: &[&str] = &["-D", "warnings"];

/// All lints, with every backend.
pub fn lints() -> Result<()> {
    let mut args = vec!["--workspace", "--all-targets", "--all-features", "--"];
    args.extend(LINTS);
    run("clippy", &args)
}

/// All crates compile with one backend and no other.
///
/// What they depend on has the features that it has with all backends, so that the lints have compiled it already.
pub fn backends_alone() -> Result<()> {
    for backend in ["cpu", "wgpu", "cuda"] {
        let features = format!("longcat-runtime/{backend},xtask/dependencies");
        let args = ["--workspace", "--no-default-features", "--features"];
        run("check", &[&args[..], &[&features]].concat())?;
    }
    Ok(())
}

/// Licences and sources of dependencies, and advisories where their database can be had.
pub fn dependencies() -> Result<()> {
    run(
        "deny",
        &[
            "--locked",
            "check",
            "--hide-inclusion-graph",
            "bans",
            "licenses",
            "sources",
        ],
    )?;
    if cargo("deny", &["fetch", "db"])
        .output()
        .is_ok_and(|fetched| fetched.status.success())
    {
        return run("deny", &["check", "--hide-inclusion-graph", "advisories"]);
    }
    eprintln!("the advisory database cannot be reached: advisories are not checked");
    Ok(())
}

/// The test command of the README.
pub fn tests(rest: &[OsString]) -> Result<()> {
    let mut command = cargo("test", &["--workspace"]);
    command.args(rest);
    finish(command, "test")
}

/// Documents of all crates, warnings being errors.
///
/// They are made from the crates as the lints have compiled them, which Cargo takes for others unless the compiler
/// and its arguments are those of `cargo clippy`.
pub fn documents() -> Result<()> {
    let mut command = cargo("doc", &["--workspace", "--all-features", "--no-deps"]);
    let separator = "__CLIPPY_HACKERY__";
    let lints: String = LINTS.iter().flat_map(|lint| [*lint, separator]).collect();
    command
        .env("RUSTC_WORKSPACE_WRAPPER", clippy_driver()?)
        .env("CLIPPY_ARGS", lints)
        .env("RUSTDOCFLAGS", "-D warnings");
    finish(command, "doc")
}

/// Where `cargo clippy` has its compiler.
fn clippy_driver() -> Result<PathBuf> {
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .context("starting rustc")?;
    let sysroot = String::from_utf8(output.stdout).context("reading rustc --print sysroot")?;
    Ok(Path::new(sysroot.trim()).join("bin/clippy-driver"))
}

/// Packs the published crates. They are not compiled from their packages, which would compile all
/// dependencies again.
pub fn packages() -> Result<()> {
    let mut args = vec!["--allow-dirty".to_string(), "--no-verify".to_string()];
    for name in house::published()? {
        args.extend(["-p".to_string(), name]);
    }
    finish(cargo("package", &args), "package")
}

/// Builds a program with the backends that its arguments name, optimised, and becomes it.
pub fn program(package: &str, name: &str, first: &[&str], rest: &[OsString]) -> Result<ExitCode> {
    let mentions = |backend: &&str| {
        rest.iter()
            .any(|arg| arg.to_string_lossy().contains(*backend))
    };
    let mut features = vec!["cpu"];
    features.extend(["wgpu", "cuda"].iter().filter(|backend| mentions(backend)));
    let status = Command::new(env!("CARGO"))
        .args(["run", "--quiet", "--release", "-p", package, "--bin", name])
        .args(["--features", &features.join(","), "--"])
        .args(first)
        .args(rest)
        .status()
        .with_context(|| format!("starting {name}"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}
