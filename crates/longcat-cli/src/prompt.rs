//! Prompts from the command line, a file or standard input.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result};
use longcat_video::VideoError;

/// The prompt that an argument names: `-` is standard input, `@FILE` a file, `@@…` a text that begins
/// with `@`, and all else the prompt itself.
pub fn prompt(argument: &str) -> Result<String> {
    let text = text(argument)?;
    let prompt = text.trim();
    match prompt.is_empty() {
        true => Err(empty(argument).into()),
        false => Ok(prompt.to_string()),
    }
}

/// The argument that names this text and nothing else, for texts that no shell has seen.
pub fn literal(text: &str) -> String {
    // It is trimmed off again.
    format!(" {text}")
}

/// As [`prompt`], but a file or standard input has a prompt in each of its lines.
pub fn prompts(arguments: &[String]) -> Result<Vec<String>> {
    let mut all = Vec::with_capacity(arguments.len());
    for argument in arguments {
        if argument != "-" && file_of(argument).is_none() {
            all.push(prompt(argument)?);
            continue;
        }
        let text = text(argument)?;
        let before = all.len();
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        all.extend(lines.map(str::to_string));
        if all.len() == before {
            return Err(empty(argument).into());
        }
    }
    Ok(all)
}

fn empty(argument: &str) -> VideoError {
    let place = match argument {
        "-" => "standard input".to_string(),
        _ => file_of(argument).map_or("the argument".into(), |path| path.display().to_string()),
    };
    VideoError::Invalid {
        what: "prompt",
        reason: format!("{place} has none: say what the video shows"),
    }
}

fn file_of(argument: &str) -> Option<&Path> {
    let path = argument.strip_prefix('@')?;
    (!path.starts_with('@')).then_some(Path::new(path))
}

fn text(argument: &str) -> Result<String> {
    let bytes = match (argument, file_of(argument)) {
        ("-", _) => {
            let mut bytes = Vec::new();
            std::io::stdin()
                .read_to_end(&mut bytes)
                .context("reading the prompt from standard input")?;
            bytes
        }
        (_, Some(path)) => std::fs::read(path)
            .with_context(|| format!("reading the prompt from {}", path.display()))?,
        (text, None) => text.strip_prefix('@').unwrap_or(text).into(),
    };
    let text = String::from_utf8(bytes)
        .ok()
        .with_context(|| format!("the prompt in {argument} is not UTF-8 text"))?;
    Ok(match text.strip_prefix('\u{feff}') {
        Some(text) => text.to_string(),
        None => text,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn prompts_come_from_arguments_and_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("prompts.txt");
        std::fs::write(&file, "\u{feff}a cat\r\n\n  a dog \n").unwrap();
        let at = format!("@{}", file.display());
        assert_eq!(prompt(&at).unwrap(), "a cat\r\n\n  a dog");
        assert_eq!(prompt(" a cat ").unwrap(), "a cat");
        assert_eq!(prompt("@@home").unwrap(), "@home");
        for text in ["-", at.as_str(), "@@home"] {
            assert_eq!(prompt(&literal(text)).unwrap(), text);
        }
        let all = prompts(&["a bird".into(), at.clone()]).unwrap();
        assert_eq!(all, ["a bird", "a cat", "a dog"]);

        std::fs::write(&file, " \n").unwrap();
        for error in [
            prompt(&at),
            prompt("  "),
            prompts(&[at]).map(|_| String::new()),
        ] {
            assert!(error.unwrap_err().to_string().starts_with("prompt: "));
        }
        std::fs::write(&file, [0xff, 0xfe]).unwrap();
        let error = prompt(&format!("@{}", file.display())).unwrap_err();
        assert!(error.to_string().contains("prompts.txt"), "{error}");
    }
}
