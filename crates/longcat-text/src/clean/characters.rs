//! Fixers that look at one character, or a few adjacent ones.

use unicode_normalization::UnicodeNormalization;

/// Replaces Latin ligatures and digraph characters by their letters; `æ` and `œ` are letters.
pub(super) fn split_ligatures(text: &str) -> String {
    replace(text, |c| {
        let latin = matches!(
            c,
            '\u{132}' | '\u{133}' | '\u{149}' | '\u{1c4}'..='\u{1cc}' | '\u{1f1}'..='\u{1f3}'
        );
        match c {
            // Its compatibility form is an ordinary s.
            '\u{fb05}' => Some("\u{17f}t".into()),
            '\u{fb00}'..='\u{fb06}' => Some(compatible(c)),
            // Composed, so that DŽ keeps its caron.
            _ if latin => Some(compatible(c)),
            _ => None,
        }
    })
}

/// Turns full-width and half-width forms and the ideographic space into the usual characters.
pub(super) fn standard_width(text: &str) -> String {
    replace(text, |c| match c {
        '\u{3000}' => Some(" ".into()),
        '\u{ff01}'..='\u{ffef}' => Some(compatible(c)),
        _ => None,
    })
}

/// Turns curly quotes and the apostrophe letter into `'` and `"`.
pub(super) fn straighten_quotes(text: &str) -> String {
    replace(text, |c| match c {
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => Some("'".into()),
        '\u{201c}'..='\u{201f}' => Some("\"".into()),
        _ => None,
    })
}

/// Turns every kind of line break into `\n`.
pub(super) fn unix_line_breaks(text: &str) -> String {
    text.replace("\r\n", "\n")
        .replace(['\r', '\u{2028}', '\u{2029}', '\u{85}'], "\n")
}

/// Removes sequences such as `ESC [ 1 ; 31 m`.
pub(super) fn remove_terminal_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("\u{1b}[") {
        out.push_str(&rest[..start]);
        let parameters = &rest[start + 2..];
        let after = parameters.trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        if after.starts_with(|c: char| c.is_ascii_alphabetic()) {
            rest = &after[1..];
        } else {
            out.push_str("\u{1b}[");
            rest = parameters;
        }
    }
    out + rest
}

/// Removes characters without any visible or spacing effect. Joiners, direction marks and tags
/// stay: emoji and scripts need them.
pub(super) fn remove_control_characters(text: &str) -> String {
    let dropped = |c: char| {
        matches!(
            c,
            '\0'..='\u{8}'
                | '\u{b}'
                | '\u{e}'..='\u{1f}'
                | '\u{7f}'
                | '\u{206a}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffc}'
        )
    };
    text.chars().filter(|&c| !dropped(c)).collect()
}

fn replace(text: &str, rule: impl Fn(char) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match rule(c) {
            Some(replacement) => out.push_str(&replacement),
            None => out.push(c),
        }
    }
    out
}

fn compatible(c: char) -> String {
    std::iter::once(c).nfkc().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ligatures_become_letters_but_ae_and_oe_stay() {
        assert_eq!(split_ligatures("ﬁ ﬃ ﬆ ﬅ ĳ ǆ æ œ"), "fi ffi st ſt ij dž æ œ");
    }

    #[test]
    fn incomplete_escapes_stay() {
        assert_eq!(remove_terminal_escapes("\u{1b}[1;31mred\u{1b}[0m"), "red");
        assert_eq!(remove_terminal_escapes("\u{1b}[12"), "\u{1b}[12");
        assert_eq!(remove_terminal_escapes("\u{1b}[é"), "\u{1b}[é");
    }

    #[test]
    fn every_line_break_becomes_a_line_feed() {
        assert_eq!(
            unix_line_breaks("a\r\nb\rc\u{2028}d\u{85}e"),
            "a\nb\nc\nd\ne"
        );
    }
}
