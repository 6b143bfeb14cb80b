//! The code in docs/adding-an-operation.md is that of the files that it names.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

const GUIDE: &str = "docs/adding-an-operation.md";

/// Lines without their indentation: blocks of methods stand at the margin there.
fn lines(text: &str) -> String {
    text.lines().flat_map(|line| [line.trim(), "\n"]).collect()
}

/// The last path of a source file that a text names.
fn named_file(text: &str) -> Option<&str> {
    let names = text.split('`').skip(1).step_by(2);
    names.filter(|name| name.ends_with(".rs")).last()
}

/// Names each quote that its file does not contain.
pub fn check(problems: &mut Vec<String>) -> Result<()> {
    let guide = fs::read_to_string(GUIDE).with_context(|| format!("reading {GUIDE}"))?;
    let mut parts = guide.split("```rust\n");
    let mut before = parts.next().unwrap_or_default().to_owned();
    let mut quotes = 0;
    for part in parts {
        let (quote, after) = part
            .split_once("```\n")
            .with_context(|| format!("{GUIDE}: a block of code does not end"))?;
        let file = named_file(&before)
            .with_context(|| format!("{GUIDE}: no file is named before\n{quote}"))?;
        // Sources are named within their crate, tests from the root.
        let folder = match file.starts_with("src/") {
            true => Path::new("crates/longcat-kernels"),
            false => Path::new("."),
        };
        let file = folder.join(file);
        let code =
            fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        if !lines(&code).contains(&lines(quote)) {
            problems.push(format!(
                "{GUIDE}: {} does not contain what is quoted of it:\n{quote}",
                file.display()
            ));
        }
        before.push_str(after);
        quotes += 1;
    }
    if quotes == 0 {
        problems.push(format!("{GUIDE}: the guide quotes no code"));
    }
    Ok(())
}
