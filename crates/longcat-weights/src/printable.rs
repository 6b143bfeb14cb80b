//! Text from files on its way to a terminal.

use std::borrow::Cow;

/// `text` with everything a terminal might act on written as an escape: control characters, line
/// feeds among them, and marks that change the direction of writing. Names of tensors, settings and
/// files come from strangers; every message that shows them goes through here.
///
/// ```
/// assert_eq!(longcat_weights::printable("蒸馏 v1"), "蒸馏 v1");
/// assert_eq!(longcat_weights::printable("a\u{1b}[2Jb\n"), r"a\u{1b}[2Jb\n");
/// ```
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return text.into();
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if acts(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown.into()
}

fn acts(c: char) -> bool {
    let direction = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    // Line separators start lines as line feeds do.
    c.is_control() || direction || matches!(c, '\u{2028}' | '\u{2029}')
}
