//! Ids of jobs, which are also the names of their folders.

const PREFIX: &str = "video_";

/// One that no job has.
pub(crate) fn new_id() -> String {
    format!("{PREFIX}{:024x}", rand::random::<u128>() >> 32)
}

/// Whether a text looks as ids do.
pub(crate) fn is_id(text: &str) -> bool {
    let digits = text.strip_prefix(PREFIX).unwrap_or_default();
    let is_digit = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    digits.len() == 24 && digits.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_ids_look_as_ids_do() {
        assert!(is_id(&new_id()));
        for other in ["", "video_", "holiday", "video_0123456789ABCDEF01234567"] {
            assert!(!is_id(other), "{other}");
        }
    }
}
