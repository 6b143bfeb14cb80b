//! JSON configuration files: one reader and one error for the configs of every component.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What can be wrong with a JSON configuration file.
///
/// Every variant names the file; all but the first two name the key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: std::io::Error,
    },
    /// The file does not hold a JSON object.
    #[error("{path}: not a JSON object: {cause}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The cause, with line and column.
        cause: serde_json::Error,
    },
    /// A required key is absent.
    #[error("{path}: {key} is missing")]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A key that is not known, and so may change what is computed.
    #[error(
        "{path}: unknown key {key}; it may change what the model computes, so remove it only if it does not"
    )]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A value is of the wrong type.
    #[error("{path}: {key} is {value}: {cause}")]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value, as JSON.
        value: String,
        /// The type that is expected.
        cause: serde_json::Error,
    },
    /// A value is of the right type, but out of range or in contradiction to another.
    #[error("{path}: {key} is {value}; {expected}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value.
        value: String,
        /// What would be accepted, and why.
        expected: String,
    },
    /// A value asks for something that is not implemented.
    #[error("{path}: {key} = {value} is not supported; only {supported} is")]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value, as JSON.
        value: String,
        /// What would be accepted.
        supported: String,
    },
}

/// The keys of a JSON config, each removed when it is read: what is left at the end is unknown.
///
/// ```
/// use longcat_weights::{ConfigError, JsonConfig};
///
/// # fn main() -> Result<(), ConfigError> {
/// let json = serde_json::from_str(r#"{"depth": 48, "dropout": 0.1}"#).unwrap();
/// let mut keys = JsonConfig::new("config.json", json);
/// assert_eq!(keys.take_or("depth", 1)?, 48);
/// assert_eq!(keys.take_or("heads", 32)?, 32);
/// let error = keys.require("dropout", 0.0).unwrap_err();
/// assert_eq!(
///     error.to_string(),
///     "config.json: dropout = 0.1 is not supported; only 0.0 is"
/// );
/// keys.finish()
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct JsonConfig {
    path: PathBuf,
    keys: Map<String, Value>,
}

impl JsonConfig {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError::Io`], [`ConfigError::Json`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::Io {
            path: path.to_path_buf(),
            cause,
        })?;
        let keys = serde_json::from_str(&text).map_err(|cause| ConfigError::Json {
            path: path.to_path_buf(),
            cause,
        })?;
        Ok(Self::new(path, keys))
    }

    /// Keys that were parsed elsewhere. `path` is the file that errors name.
    pub fn new(path: impl Into<PathBuf>, keys: Map<String, Value>) -> Self {
        Self {
            path: path.into(),
            keys,
        }
    }

    /// Whether a key is there and was not read yet.
    pub fn contains(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// Removes the keys that do not matter to the reader.
    pub fn ignore(&mut self, matches: impl Fn(&str, &Value) -> bool) {
        self.keys.retain(|key, value| !matches(key, value));
    }

    /// Removes and parses a required key.
    ///
    /// # Errors
    /// [`ConfigError::MissingKey`], [`ConfigError::WrongType`].
    pub fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<T, ConfigError> {
        self.take_optional(key)?
            .ok_or_else(|| ConfigError::MissingKey {
                path: self.path.clone(),
                key: key.to_string(),
            })
    }

    /// Removes and parses a key; `default` where it is absent.
    ///
    /// # Errors
    /// [`ConfigError::WrongType`].
    pub fn take_or<T: DeserializeOwned>(
        &mut self,
        key: &str,
        default: T,
    ) -> Result<T, ConfigError> {
        Ok(self.take_optional(key)?.unwrap_or(default))
    }

    fn take_optional<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>, ConfigError> {
        let Some(value) = self.keys.shift_remove(key) else {
            return Ok(None);
        };
        let text = value.to_string();
        serde_json::from_value(value)
            .map(Some)
            .map_err(|cause| ConfigError::WrongType {
                path: self.path.clone(),
                key: key.to_string(),
                value: text,
                cause,
            })
    }

    /// Removes a key, which must be absent or hold the one supported value.
    ///
    /// # Errors
    /// [`ConfigError::Unsupported`].
    pub fn require(&mut self, key: &str, supported: impl Into<Value>) -> Result<(), ConfigError> {
        let supported = supported.into();
        match self.keys.shift_remove(key) {
            Some(value) if value != supported => Err(self.unsupported(key, value, supported)),
            _ => Ok(()),
        }
    }

    /// Checks that sizes which were read are not 0.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] names the first that is.
    pub fn check_positive(&self, sizes: &[(&str, usize)]) -> Result<(), ConfigError> {
        match sizes.iter().find(|(_, size)| *size == 0) {
            Some((key, size)) => Err(self.invalid(key, size, "it must be positive")),
            None => Ok(()),
        }
    }

    /// Checks that every key was read.
    ///
    /// # Errors
    /// [`ConfigError::UnknownKey`] names the first that was not.
    pub fn finish(&self) -> Result<(), ConfigError> {
        match self.keys.keys().next() {
            Some(key) => Err(ConfigError::UnknownKey {
                path: self.path.clone(),
                key: key.clone(),
            }),
            None => Ok(()),
        }
    }

    /// The error for a value that cannot be right; `expected` says what would be, as a clause.
    pub fn invalid(
        &self,
        key: &str,
        value: impl ToString,
        expected: impl Into<String>,
    ) -> ConfigError {
        ConfigError::Invalid {
            path: self.path.clone(),
            key: key.to_string(),
            value: value.to_string(),
            expected: expected.into(),
        }
    }

    /// The error for a value that is right but not implemented.
    pub fn unsupported(
        &self,
        key: &str,
        value: impl ToString,
        supported: impl ToString,
    ) -> ConfigError {
        ConfigError::Unsupported {
            path: self.path.clone(),
            key: key.to_string(),
            value: value.to_string(),
            supported: supported.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn keys(json: Value) -> JsonConfig {
        JsonConfig::new("some/config.json", json.as_object().unwrap().clone())
    }

    #[test]
    fn every_error_names_the_file_and_the_key() {
        let mut config = keys(json!({"a": "wide", "b": 2, "c": 0, "d": null}));
        let errors = [
            (
                config.take::<usize>("a").unwrap_err(),
                vec!["a", "\"wide\""],
            ),
            (config.require("b", 1).unwrap_err(), vec!["b", "2", "1"]),
            (config.take::<usize>("e").unwrap_err(), vec!["e", "missing"]),
            (
                config.check_positive(&[("b", 1), ("c", 0)]).unwrap_err(),
                vec!["c", "positive"],
            ),
            (config.finish().unwrap_err(), vec!["unknown key c"]),
        ];
        for (error, words) in errors {
            let message = error.to_string();
            assert!(message.starts_with("some/config.json: "), "{message}");
            for word in words {
                assert!(message.contains(word), "{word:?} not in {message:?}");
            }
        }
        config.ignore(|key, _| key == "c");
        assert_eq!(config.take_or("d", Some(1)).unwrap(), None);
        assert_eq!(config.take_or("e", 5).unwrap(), 5);
        config.finish().unwrap();
    }

    #[test]
    fn files_that_are_not_objects_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        assert!(matches!(
            JsonConfig::read(&path),
            Err(ConfigError::Io { .. })
        ));
        for text in ["[]", "{"] {
            std::fs::write(&path, text).unwrap();
            let error = JsonConfig::read(&path).unwrap_err();
            assert!(matches!(error, ConfigError::Json { .. }));
            assert!(error.to_string().contains("config.json"));
        }
    }
}
