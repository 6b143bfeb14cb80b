//! The code in docs/adding-an-operation.md is that of the files that it names.

use std::{fs, path::Path};

/// Lines without their indentation: blocks of methods stand at the margin there.
fn lines(text: &str) -> String {
    text.lines().flat_map(|line| [line.trim(), "\n"]).collect()
}

/// The last `path` of a source file in a text.
fn named_file(text: &str) -> Option<&str> {
    let names = text.split('`').skip(1).step_by(2);
    names.filter(|name| name.ends_with(".rs")).last()
}

#[test]
fn quotes_are_the_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let guide = fs::read_to_string(root.join("docs/adding-an-operation.md")).unwrap();
    let mut parts = guide.split("```rust\n");
    let mut before = parts.next().unwrap().to_owned();
    let mut quotes = 0;
    for part in parts {
        let (quote, after) = part.split_once("```\n").unwrap();
        let file = named_file(&before).unwrap();
        // Sources are named within their crate, tests from the root.
        let folder = match file.starts_with("src/") {
            true => root.join("crates/longcat-kernels"),
            false => root.clone(),
        };
        let code = fs::read_to_string(folder.join(file)).unwrap();
        assert!(
            lines(&code).contains(&lines(quote)),
            "{file} does not contain what the guide quotes:\n{quote}"
        );
        before.push_str(after);
        quotes += 1;
    }
    assert!(quotes > 0, "the guide quotes no code");
}
