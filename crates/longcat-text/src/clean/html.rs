//! HTML entities that can mean nothing else.

/// Longest entity name or number that is looked at, without `&`, `#` and `;`.
const LONGEST: usize = 24;

/// Decodes the entities that end in a semicolon, and Latin letters whose entity was upper-cased
/// (`&NTILDE;`). `this&not that` stays.
pub(super) fn unescape_unambiguous(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        match entity_length(rest) {
            Some(length) => {
                let (entity, after) = rest.split_at(length);
                match decode(entity) {
                    Some(decoded) => out.push_str(&decoded),
                    None => out.push_str(entity),
                }
                rest = after;
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out + rest
}

/// Bytes of `&name;` or `&#number;` at the start of `text`.
fn entity_length(text: &str) -> Option<usize> {
    let prefix = if text[1..].starts_with('#') { 2 } else { 1 };
    let name = text[prefix..]
        .bytes()
        .take_while(u8::is_ascii_alphanumeric)
        .count();
    let complete = text.as_bytes().get(prefix + name) == Some(&b';');
    (complete && (1..=LONGEST).contains(&name)).then_some(prefix + name + 1)
}

fn decode(entity: &str) -> Option<String> {
    let decoded = htmlize::unescape(entity);
    if decoded != entity {
        // `&ampere;` decodes to `&ere;`: only a prefix was an entity.
        return (!decoded.contains(';') || entity == "&semi;").then(|| decoded.into_owned());
    }
    let name = &entity[1..];
    if name.starts_with('#') || name.bytes().any(|b| b.is_ascii_lowercase()) {
        return None;
    }
    let lower = entity.to_ascii_lowercase();
    let decoded = htmlize::unescape(lower.as_str());
    (decoded != lower && !decoded.contains(';')).then(|| decoded.to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::unescape_unambiguous as unescape;

    #[test]
    fn only_complete_entities_are_decoded() {
        assert_eq!(unescape("&lt;b&gt; &#233; &#xE9;"), "<b> é é");
        assert_eq!(
            unescape("this&not that & &; &amp"),
            "this&not that & &; &amp"
        );
        assert_eq!(unescape("&ampere; &unknown;"), "&ampere; &unknown;");
    }

    #[test]
    fn upper_cased_names_of_letters_give_capitals() {
        assert_eq!(unescape("P&EACUTE;REZ &Ntilde; &ntilde;"), "PÉREZ Ñ ñ");
        assert_eq!(unescape("&nTILDE;"), "&nTILDE;");
    }
}
