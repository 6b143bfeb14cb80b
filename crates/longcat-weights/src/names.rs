//! Naming schemes: ordered tables of regular expressions.

use regex::Regex;

/// An ordered table of regex rules that turns one naming scheme into another.
///
/// Every rule is tried in order on the result of the ones before it; a rule replaces its first
/// match. Keys that no rule matches keep their name, so an empty table is the identity.
#[derive(Debug, Clone, Default)]
pub struct NameMap {
    rules: Vec<(Regex, String)>,
}

impl NameMap {
    /// Builds a table from `(pattern, replacement)` pairs (`regex` crate syntax, `${1}` groups).
    ///
    /// # Panics
    /// If a pattern is not a valid regular expression: tables are data of the program.
    pub fn new(rules: &[(&str, &str)]) -> Self {
        let rules = rules
            .iter()
            .map(|(pattern, replacement)| match Regex::new(pattern) {
                Ok(regex) => (regex, (*replacement).to_string()),
                Err(error) => panic!("invalid pattern {pattern:?} in a name map: {error}"),
            })
            .collect();
        Self { rules }
    }

    /// The name of `key` in the target scheme.
    pub fn map(&self, key: &str) -> String {
        self.rules
            .iter()
            .fold(key.to_string(), |name, (regex, replacement)| {
                regex.replace(&name, replacement.as_str()).into_owned()
            })
    }

    /// The rules as text, in order.
    pub fn rules(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rules
            .iter()
            .map(|(regex, replacement)| (regex.as_str(), replacement.as_str()))
    }
}
