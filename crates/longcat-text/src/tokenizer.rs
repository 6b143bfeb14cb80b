//! The tokenizer: prompts to token ids.

use std::path::{Path, PathBuf};

use burn::tensor::backend::Backend;
use burn::tensor::{Bool, Int, Tensor, TensorData};
use longcat_weights::{ConfigError, JsonConfig, WeightFiles};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokenizers::{PostProcessor, Tokenizer, TruncationDirection};

use crate::{TextError, sentence_piece};

/// Token ids of several prompts, padded on the right to one length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// `[n][L]` ids.
    pub ids: Vec<Vec<u32>>,
    /// `[n][L]`, true for tokens of the prompt (the final `</s>` included), false for padding.
    pub mask: Vec<Vec<bool>>,
}

impl Tokens {
    /// Ids and mask as tensors `[n, L]`.
    pub fn to_tensors<B: Backend>(
        &self,
        device: &B::Device,
    ) -> (Tensor<B, 2, Int>, Tensor<B, 2, Bool>) {
        let shape = [self.ids.len(), self.ids.first().map_or(0, Vec::len)];
        let ids: Vec<i32> = self.ids.iter().flatten().map(|&id| id as i32).collect();
        let mask: Vec<bool> = self.mask.iter().flatten().copied().collect();
        (
            Tensor::from_data(TensorData::new(ids, shape), device),
            Tensor::from_data(TensorData::new(mask, shape), device),
        )
    }
}

/// The tokenizer of a checkpoint's `tokenizer/` directory.
#[derive(Debug, Clone)]
pub struct PromptTokenizer {
    tokenizer: Tokenizer,
    path: PathBuf,
    pad_id: u32,
    added: usize,
    /// `model_max_length`: the text encoder is not made for more tokens.
    longest: Option<usize>,
}

impl PromptTokenizer {
    /// Reads a tokenizer: `tokenizer.json`, a SentencePiece model (`spiece.model`), a directory with one of
    /// them, or a text encoder's file that carries a SentencePiece model. The padding token and the longest
    /// text are those of the `tokenizer_config.json` beside it; without one the padding token is `<pad>`.
    ///
    /// # Errors
    /// [`TextError`] names the file: unreadable, malformed, padding on the left, a padding token
    /// that is not in the vocabulary.
    pub fn load(path: &Path) -> Result<Self, TextError> {
        let path = match path.is_dir() {
            true if path.join("tokenizer.json").exists() || !path.join("spiece.model").exists() => {
                path.join("tokenizer.json")
            }
            true => path.join("spiece.model"),
            false => path.to_path_buf(),
        };
        let mut tokenizer = read(&path)?;
        // Length is the caller's business; settings stored in the file would apply first.
        tokenizer
            .with_padding(None)
            .with_truncation(None)
            .map_err(|e| unusable(&path, e.to_string()))?;
        let beside = path.with_file_name("tokenizer_config.json");
        let mut config = match beside.is_file() {
            true => JsonConfig::read(&beside)?,
            false => JsonConfig::new(&beside, Map::from_iter([pad_token()])),
        };
        let pad = padding_token(&mut config)?;
        let pad_id = tokenizer
            .token_to_id(&pad)
            .ok_or_else(|| unusable(&path, format!("the padding token {pad} is not in it")))?;
        let added = tokenizer
            .get_post_processor()
            .map_or(0, |p| p.added_tokens(false));
        Ok(Self {
            tokenizer,
            path,
            pad_id,
            added,
            // Where there is no limit, Python writes 1e30, which is not a count of tokens.
            longest: config
                .take_or("model_max_length", Value::Null)?
                .as_u64()
                .and_then(|length| usize::try_from(length).ok()),
        })
    }

    /// How many tokens a text of at most `asked` tokens is padded to: no more than the
    /// `model_max_length` of the checkpoint.
    pub fn length(&self, asked: usize) -> usize {
        self.longest.map_or(asked, |longest| longest.min(asked))
    }

    /// The content of a `tokenizer.json` of this tokenizer.
    ///
    /// # Errors
    /// [`TextError::InvalidTokenizer`] for a model that cannot be written so.
    pub fn to_json(&self) -> Result<String, TextError> {
        let json = self.tokenizer.to_string(false);
        json.map_err(|e| unusable(&self.path, e.to_string()))
    }

    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The largest id that [`Self::encode`] can give.
    pub(crate) fn largest_id(&self) -> u32 {
        let ids = self.tokenizer.get_vocab(true);
        ids.into_values().max().unwrap_or(0)
    }

    /// Tokenizes prompts as they are (see [`crate::clean_prompt`]) to exactly `max_length` tokens.
    ///
    /// Longer prompts are cut at the end, before the final `</s>`; shorter ones are padded there.
    ///
    /// # Errors
    /// [`TextError::MaxLengthTooShort`], or [`TextError::Tokenize`] with the prompt.
    pub fn encode(&self, prompts: &[String], max_length: usize) -> Result<Tokens, TextError> {
        if max_length < self.added.max(1) {
            return Err(TextError::MaxLengthTooShort {
                max_length,
                added: self.added,
            });
        }
        let mut tokens = Tokens {
            ids: Vec::with_capacity(prompts.len()),
            mask: Vec::with_capacity(prompts.len()),
        };
        for prompt in prompts {
            let mut ids = self
                .encode_one(prompt, max_length)
                .map_err(|e| TextError::Tokenize {
                    prompt: prompt.clone(),
                    reason: e.to_string(),
                })?;
            tokens
                .mask
                .push((0..max_length).map(|i| i < ids.len()).collect());
            ids.resize(max_length, self.pad_id);
            tokens.ids.push(ids);
        }
        Ok(tokens)
    }

    fn encode_one(&self, prompt: &str, max_length: usize) -> tokenizers::Result<Vec<u32>> {
        let mut encoding = self.tokenizer.encode(prompt, false)?;
        encoding.truncate(max_length - self.added, 0, TruncationDirection::Right);
        let encoding = match self.tokenizer.get_post_processor() {
            Some(post) => post.process(encoding, None, true)?,
            None => encoding,
        };
        Ok(encoding.get_ids().to_vec())
    }
}

/// The tokenizer of a file, whose content tells what it is.
fn read(path: &Path) -> Result<Tokenizer, TextError> {
    let io = |cause| TextError::Io {
        path: path.to_path_buf(),
        cause,
    };
    let weights =
        [".safetensors", ".gguf", ".pth"].map(|end| path.to_string_lossy().ends_with(end));
    let model = if weights.contains(&true) {
        WeightFiles::open(path)?
            .bytes(sentence_piece::TENSOR)?
            .into_owned()
    } else {
        let bytes = std::fs::read(path).map_err(io)?;
        if path.extension().is_none_or(|end| end != "model") {
            return Tokenizer::from_bytes(&bytes).map_err(|e| unusable(path, e.to_string()));
        }
        bytes
    };
    sentence_piece::tokenizer(&model).map_err(|reason| unusable(path, reason))
}

/// What a `tokenizer_config.json` of T5 and UMT5 says at least.
fn pad_token() -> (String, Value) {
    ("pad_token".into(), "<pad>".into())
}

/// `pad_token` of `tokenizer_config.json`: a string, or an object with `content`.
fn padding_token(config: &mut JsonConfig) -> Result<String, ConfigError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Token {
        Text(String),
        Added { content: String },
    }
    let side: Option<String> = config.take_or("padding_side", None)?;
    if let Some(side) = side.filter(|side| side != "right") {
        return Err(config.unsupported("padding_side", side, "right"));
    }
    Ok(match config.take("pad_token")? {
        Token::Text(token) | Token::Added { content: token } => token,
    })
}

fn unusable(path: &Path, reason: String) -> TextError {
    TextError::InvalidTokenizer {
        path: path.to_path_buf(),
        reason,
    }
}
