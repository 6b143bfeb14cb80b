//! Repair of text that was UTF-8 and has been read as Latin-1 or Windows-1252 (`schÃ¶n`).
//!
//! The method: find runs of characters whose bytes in those code pages spell UTF-8, and decode a
//! run if at least one of its sequences is convincing, that is, would hardly be written on purpose.
//! Where all of the text outside ASCII is spelled so, one convincing sequence speaks for all.

/// What Windows-1252 has at bytes 0x80 to 0x9F. The five bytes it leaves undefined stand for the
/// control characters of Latin-1, as in web browsers.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}',
    '\u{90}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

/// Decodes mojibake, also several layers of it, then what is left of C1 control characters.
pub(super) fn repair(text: &str) -> String {
    let mut text = text.to_string();
    // Ends, because every decoded sequence makes the text shorter.
    while let Some(decoded) = decode_layer(&text) {
        text = decoded;
    }
    text.chars()
        .map(|c| match c {
            '\u{80}'..='\u{9f}' => WINDOWS_1252[c as usize - 0x80],
            _ => c,
        })
        .collect()
}

/// One UTF-8 sequence spelled in single-byte characters.
struct Sequence {
    /// Where it starts, in characters.
    start: usize,
    /// Characters it is spelled with.
    length: usize,
    /// What it decodes to.
    decoded: char,
    /// Whether it would hardly be written on purpose.
    convincing: bool,
}

fn decode_layer(text: &str) -> Option<String> {
    let chars: Vec<char> = text.chars().collect();
    let sequences = find_sequences(&chars);
    if !sequences.iter().any(|s| s.convincing) {
        return None;
    }
    let spelled: usize = sequences
        .iter()
        .flat_map(|s| &chars[s.start..s.start + s.length])
        .filter(|c| !c.is_ascii())
        .count();
    let all = spelled == chars.iter().filter(|c| !c.is_ascii()).count();

    let mut out = String::with_capacity(text.len());
    let mut position = 0;
    for run in sequences.chunk_by(|a, b| a.start + a.length == b.start) {
        if !all && !run.iter().any(|s| s.convincing) {
            continue;
        }
        for sequence in run {
            out.extend(&chars[position..sequence.start]);
            out.push(sequence.decoded);
            position = sequence.start + sequence.length;
        }
    }
    out.extend(&chars[position..]);
    Some(out)
}

fn find_sequences(chars: &[char]) -> Vec<Sequence> {
    let mut found = Vec::new();
    let mut start = 0;
    while start < chars.len() {
        match sequence_at(chars, start) {
            Some(sequence) => {
                start += sequence.length;
                found.push(sequence);
            }
            None => start += 1,
        }
    }
    found
}

fn sequence_at(chars: &[char], start: usize) -> Option<Sequence> {
    let lead = byte_of(chars[start])?;
    let length = match lead {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return None,
    };
    if let Some(sequence) = lost_no_break_space(chars, start) {
        return Some(sequence);
    }
    let spelled = chars.get(start..start + length)?;
    let bytes: Vec<u8> = spelled.iter().map(|&c| byte_of(c)).collect::<Option<_>>()?;
    let decoded = std::str::from_utf8(&bytes).ok()?.chars().next()?;
    let before = start.checked_sub(1).map(|i| chars[i]);
    let after = chars.get(start + length).copied();
    Some(Sequence {
        start,
        length,
        decoded,
        convincing: is_convincing(spelled, before, after),
    })
}

/// `Ã` and `Â` before a space: the second byte, a no-break space, became an ordinary one. The
/// space stays, since `Ã la` was `à la`, unless another follows.
fn lost_no_break_space(chars: &[char], start: usize) -> Option<Sequence> {
    let (lead, decoded) = match chars[start] {
        c @ 'Ã' => (c, 'à'),
        c @ 'Â' => (c, '\u{a0}'),
        _ => return None,
    };
    if chars.get(start + 1) != Some(&' ') {
        return None;
    }
    let before = start.checked_sub(1).map(|i| chars[i]);
    let in_words = before.is_none_or(|c| c == ' ' || c.is_ascii_lowercase());
    let doubled = chars.get(start + 2) == Some(&' ');
    in_words.then_some(Sequence {
        start,
        length: if lead == 'Â' || doubled { 2 } else { 1 },
        decoded,
        convincing: true,
    })
}

fn is_convincing(spelled: &[char], before: Option<char>, after: Option<char>) -> bool {
    if spelled.iter().any(|c| c.is_control()) {
        return true;
    }
    let lower = |c: Option<char>| c.is_some_and(char::is_lowercase);
    match spelled {
        // The leads of Latin-1 letters, Greek and Cyrillic.
        ['Â' | 'Ã' | 'Î' | 'Ð', _] => true,
        // A capital before a quote or a dash ends a word in capitals, unless small letters touch.
        [_, next] if ends_words(*next) || next.is_alphabetic() => lower(before) || lower(after),
        [_, _] => true,
        ['â', '€', _] => true,
        [_, rest @ ..] => !rest.iter().all(|&c| ends_words(c)),
        [] => false,
    }
}

/// Marks that may well follow a word that ends in an accented letter.
fn ends_words(c: char) -> bool {
    matches!(
        c,
        '‘' | '’'
            | '‚'
            | '“'
            | '”'
            | '„'
            | '‹'
            | '›'
            | '«'
            | '»'
            | '–'
            | '—'
            | '…'
            | '•'
            | '·'
            | '®'
            | '©'
            | '™'
            | '°'
            | '\u{a0}'
    )
}

/// The byte of a character in Windows-1252, or in Latin-1 where that has a control character.
fn byte_of(c: char) -> Option<u8> {
    match u8::try_from(c) {
        Ok(byte) => Some(byte),
        Err(_) => WINDOWS_1252
            .iter()
            .position(|&w| w == c)
            .map(|i| 0x80 + i as u8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn misread(text: &str) -> String {
        text.bytes()
            .map(|b| match b {
                0x80..=0x9f => WINDOWS_1252[b as usize - 0x80],
                _ => char::from(b),
            })
            .collect()
    }

    #[test]
    fn misread_text_is_read_again() {
        for text in [
            "schön",
            "“quoted” — naïve…",
            "привет, мир",
            "一只猫 🙂",
            "Ωμέγα",
            "œuvre",
        ] {
            assert_eq!(repair(&misread(text)), text);
            assert_eq!(repair(&misread(&misread(text))), text);
            let latin_1: String = text.bytes().map(char::from).collect();
            assert_eq!(repair(&latin_1), text);
        }
    }

    #[test]
    fn parts_are_repaired_beside_sound_text() {
        assert_eq!(repair("猫 schÃ¶n"), "猫 schön");
        assert_eq!(repair("l’humanitÃ©"), "l’humanité");
        assert_eq!(repair("voilÃ  Ã la mode"), "voilà à la mode");
    }

    #[test]
    fn sound_text_stays() {
        for text in [
            "Größe ÄÖÜ, São Paulo, smörgåsbord, çà et là",
            "NESTLÉ® CAFÉ™ “VOILÀ” «DÉJÀ»…",
            "LE CAFÉ’S “É”",
            "Å and Ä are letters",
            "¿Qué? ¡Así! 25 °C, 100 £",
        ] {
            assert_eq!(repair(text), text);
        }
    }

    #[test]
    fn control_characters_of_latin_1_are_those_of_windows() {
        assert_eq!(repair("it\u{92}s \u{93}so\u{94}"), "it’s “so”");
    }
}
