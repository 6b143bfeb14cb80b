//! What the official pipeline does to a prompt: ftfy's `fix_text`, HTML unescaping twice, and
//! whitespace collapsed.
//!
//! No kept Rust crate matches ftfy: `plsfix` 0.1.8 strips `ESC` before it looks for terminal
//! escapes, applies HTML rules to text with tags, and pulls in all of ICU. So this is a subset of
//! `fix_text` in its default configuration, written for prompts. It does what ftfy does except in
//! the repair of wrongly decoded text (see [`mojibake`]): that covers UTF-8 read as Latin-1 or
//! Windows-1252, once or several times over, and no other code page.

mod characters;
mod html;
mod mojibake;

use unicode_normalization::UnicodeNormalization;

/// Cleans a prompt as the official pipeline does before tokenizing.
///
/// Repairs mojibake (`schÃ¶n`), takes ligatures and full-width forms apart, straightens quotes,
/// drops terminal escapes and control characters, decodes HTML entities, normalises to NFC and
/// turns every run of whitespace into one space, none at the ends.
pub fn clean_prompt(text: &str) -> String {
    let text = fix_text(text);
    let text = htmlize::unescape(htmlize::unescape(text.as_str()));
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The subset of `ftfy.fix_text` described above, line by line.
fn fix_text(text: &str) -> String {
    let mut unescape = true;
    text.split_inclusive('\n')
        .map(|line| {
            // A literal `<` says that this is HTML source, whose entities are intended; it counts
            // for the lines below as well.
            unescape &= !line.contains('<');
            fix_line(line, unescape)
        })
        .collect()
}

/// Applies all fixers until none changes anything.
fn fix_line(line: &str, unescape: bool) -> String {
    let mut text = line.to_string();
    loop {
        let mut fixed = text.clone();
        if unescape {
            fixed = html::unescape_unambiguous(&fixed);
        }
        fixed = mojibake::repair(&fixed);
        fixed = characters::split_ligatures(&fixed);
        fixed = characters::standard_width(&fixed);
        fixed = characters::straighten_quotes(&fixed);
        fixed = characters::unix_line_breaks(&fixed);
        fixed = characters::remove_terminal_escapes(&fixed);
        fixed = characters::remove_control_characters(&fixed);
        fixed = fixed.nfc().collect();
        if fixed == text {
            return text;
        }
        text = fixed;
    }
}
