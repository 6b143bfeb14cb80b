//! Where the cache, the hub and the token are: the variables of Python's `huggingface_hub`.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::HubError;

/// A secret that the hub knows its user by.
#[derive(Clone)]
pub struct Token {
    secret: String,
    from: String,
}

impl Token {
    /// A token, and where it comes from as errors name it. Ends of lines and spaces around it are taken off;
    /// `None` if nothing is left.
    ///
    /// # Errors
    /// [`HubError::Token`] if it holds characters that no token has.
    pub fn new(secret: &str, from: &str) -> Result<Option<Self>, HubError> {
        let secret = secret.trim();
        if secret.is_empty() {
            return Ok(None);
        }
        if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(HubError::Token { from: from.into() });
        }
        Ok(Some(Self {
            secret: secret.into(),
            from: from.into(),
        }))
    }

    pub(crate) fn secret(&self) -> &str {
        &self.secret
    }

    /// The variable or file that it comes from.
    pub fn from(&self) -> &str {
        &self.from
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(from {})", self.from)
    }
}

/// Which hub is asked as whom, and where its cache is.
#[derive(Debug, Clone)]
pub struct HubSettings {
    /// The folder of the cache: `HF_HUB_CACHE`, else `hub` in `HF_HOME`, else in `~/.cache/huggingface`.
    pub cache: PathBuf,
    /// The hub: `HF_ENDPOINT`, else `https://huggingface.co`.
    pub endpoint: String,
    /// The token: `HF_TOKEN`, else the file `HF_TOKEN_PATH`, else `token` in `HF_HOME`, where
    /// `huggingface-cli login` keeps it. `HF_HUB_DISABLE_IMPLICIT_TOKEN` leaves it out.
    pub token: Option<Token>,
    /// Whether the network may not be asked: `HF_HUB_OFFLINE` is 1, on, yes or true.
    pub offline: bool,
}

impl HubSettings {
    /// The settings of the environment.
    ///
    /// # Errors
    /// [`HubError::NoHome`] if nothing says where the cache is, [`HubError::Io`] if there is a token that
    /// cannot be read, [`HubError::Token`] if it cannot be one.
    pub fn from_env() -> Result<Self, HubError> {
        let home = dirs::home_dir();
        Self::from_variables(&|name| std::env::var(name).ok(), home.as_deref())
    }

    /// The settings that variables say, for a user with a home folder.
    ///
    /// # Errors
    /// As [`Self::from_env`].
    pub fn from_variables(
        variable: &dyn Fn(&str) -> Option<String>,
        home: Option<&Path>,
    ) -> Result<Self, HubError> {
        let places = Places { variable, home };
        let endpoint = places.text("HF_ENDPOINT");
        let endpoint = endpoint.as_deref().unwrap_or("https://huggingface.co");
        let offline = places.text("HF_HUB_OFFLINE");
        Ok(Self {
            cache: places.cache()?,
            endpoint: endpoint.trim_end_matches('/').to_string(),
            token: places.token()?,
            offline: is_true(offline.or_else(|| places.text("TRANSFORMERS_OFFLINE"))),
        })
    }
}

/// The folder of the cache that the environment says.
///
/// # Errors
/// [`HubError::NoHome`] if nothing says where it is.
pub(crate) fn cache_of_env() -> Result<PathBuf, HubError> {
    let home = dirs::home_dir();
    Places {
        variable: &|name| std::env::var(name).ok(),
        home: home.as_deref(),
    }
    .cache()
}

struct Places<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    home: Option<&'a Path>,
}

impl Places<'_> {
    /// A variable that is set to something.
    fn text(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        let text = self.text(name)?;
        Some(match (text.strip_prefix('~'), self.home) {
            (Some(""), Some(home)) => home.to_path_buf(),
            (Some(rest), Some(home)) if rest.starts_with('/') => home.join(&rest[1..]),
            _ => text.into(),
        })
    }

    /// `HF_HOME`, or where it is by default.
    fn hf_home(&self) -> Result<PathBuf, HubError> {
        if let Some(path) = self.path("HF_HOME") {
            return Ok(path);
        }
        let caches = match (self.path("XDG_CACHE_HOME"), self.home) {
            (Some(path), _) => path,
            (None, Some(home)) => home.join(".cache"),
            (None, None) => return Err(HubError::NoHome),
        };
        Ok(caches.join("huggingface"))
    }

    fn cache(&self) -> Result<PathBuf, HubError> {
        let named = self.path("HF_HUB_CACHE");
        match named.or_else(|| self.path("HUGGINGFACE_HUB_CACHE")) {
            Some(path) => Ok(path),
            None => Ok(self.hf_home()?.join("hub")),
        }
    }

    fn token(&self) -> Result<Option<Token>, HubError> {
        if is_true(self.text("HF_HUB_DISABLE_IMPLICIT_TOKEN")) {
            return Ok(None);
        }
        for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
            if let Some(text) = self.text(name)
                && let Some(token) = Token::new(&text, name)?
            {
                return Ok(Some(token));
            }
        }
        let path = match self.path("HF_TOKEN_PATH") {
            Some(path) => path,
            None => self.hf_home()?.join("token"),
        };
        match std::fs::read_to_string(&path) {
            Ok(text) => Token::new(&text, &path.display().to_string()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(HubError::Io { path, cause }),
        }
    }
}

fn is_true(value: Option<String>) -> bool {
    let words = ["1", "ON", "YES", "TRUE"];
    value.is_some_and(|value| words.contains(&value.to_uppercase().as_str()))
}
