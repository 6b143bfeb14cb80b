//! SentencePiece models as tokenizers: `spiece.model`, or the bytes of one that ComfyUI's text encoders
//! carry.

use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::{Precompiled, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, NormalizerWrapper, Tokenizer};

/// The tensor of a text encoder's file that holds the model.
pub(crate) const TENSOR: &str = "spiece_model";

const END: &str = "</s>";

/// What `type` of a piece says.
const NORMAL: u64 = 1;
const UNKNOWN: u64 = 2;
const CONTROL: u64 = 3;
const USER_DEFINED: u64 = 4;

/// What is needed of a `ModelProto`, in the protobuf encoding.
#[derive(Default)]
struct Model {
    pieces: Vec<(String, f64)>,
    special: Vec<String>,
    whole: Vec<String>,
    unknown: Option<usize>,
    bytes: bool,
    characters: Vec<u8>,
}

/// The tokenizer of a Unigram model, as Hugging Face converts those of T5: characters are replaced as the
/// model says, spaces become one, every word begins with `▁`, and `</s>` ends the text.
///
/// # Errors
/// What is wrong with the model, in words.
pub(crate) fn tokenizer(bytes: &[u8]) -> Result<Tokenizer, String> {
    let model = parse(bytes).ok_or("not a SentencePiece model of the Unigram kind")?;
    let end = model.pieces.iter().position(|(piece, _)| piece == END);
    let end = end.ok_or("the SentencePiece model has no </s>")?;
    let text = |error: tokenizers::Error| error.to_string();
    let unigram = Unigram::from(model.pieces, model.unknown, model.bytes).map_err(text)?;
    let mut normalizers: Vec<NormalizerWrapper> = Vec::new();
    if !model.characters.is_empty() {
        let table = Precompiled::from(&model.characters).map_err(|e| e.to_string())?;
        normalizers.push(table.into());
    }
    let spaces = Replace::new(
        tokenizers::normalizers::replace::ReplacePattern::Regex(" {2,}".into()),
        " ",
    );
    normalizers.push(spaces.map_err(text)?.into());
    normalizers.push(Strip::new(true, true).into());
    let template = TemplateProcessing::builder()
        .try_single(format!("$A {END}"))?
        .special_tokens(vec![(END, u32::try_from(end).map_err(|e| e.to_string())?)])
        .build()
        .map_err(|e| e.to_string())?;
    let mut tokenizer = Tokenizer::new(unigram);
    tokenizer
        .with_normalizer(Some(Sequence::new(normalizers)))
        .with_pre_tokenizer(Some(Metaspace::new('▁', PrependScheme::Always, true)))
        .with_post_processor(Some(template));
    let added = |pieces: Vec<String>, special: bool| -> Vec<AddedToken> {
        let token = |piece| AddedToken::from(piece, special).normalized(false);
        pieces.into_iter().map(token).collect()
    };
    tokenizer.add_special_tokens(&added(model.special, true));
    tokenizer.add_tokens(&added(model.whole, false));
    Ok(tokenizer)
}

fn parse(bytes: &[u8]) -> Option<Model> {
    let mut model = Model::default();
    for field in fields(bytes) {
        match field? {
            (1, Value::Bytes(piece)) => model.add(piece)?,
            // The trainer's settings: a kind other than Unigram (1) works otherwise.
            (2, Value::Bytes(trainer)) => {
                for field in fields(trainer) {
                    match field? {
                        (3, Value::Number(kind)) if kind != 1 => return None,
                        (35, Value::Number(bytes)) => model.bytes = bytes != 0,
                        _ => {}
                    }
                }
            }
            (3, Value::Bytes(normalizer)) => {
                for field in fields(normalizer) {
                    if let (2, Value::Bytes(table)) = field? {
                        model.characters = table.to_vec();
                    }
                }
            }
            _ => {}
        }
    }
    (!model.pieces.is_empty()).then_some(model)
}

impl Model {
    fn add(&mut self, bytes: &[u8]) -> Option<()> {
        let (mut piece, mut score, mut kind) = ("", 0.0, NORMAL);
        for field in fields(bytes) {
            match field? {
                (1, Value::Bytes(text)) => piece = std::str::from_utf8(text).ok()?,
                (2, Value::Single(number)) => score = f64::from(number),
                (3, Value::Number(number)) => kind = number,
                _ => {}
            }
        }
        match kind {
            UNKNOWN => {
                self.unknown = Some(self.pieces.len());
                self.special.push(piece.into());
            }
            CONTROL => self.special.push(piece.into()),
            USER_DEFINED => self.whole.push(piece.into()),
            _ => {}
        }
        self.pieces.push((piece.into(), score));
        Some(())
    }
}

enum Value<'a> {
    Number(u64),
    Single(f32),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a message by their numbers; `None` ends a damaged one.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Option<(u64, Value<'_>)>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let field = field(&mut bytes);
        if field.is_none() {
            bytes = &[];
        }
        Some(field)
    })
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let tag = number(bytes)?;
    let value = match tag & 7 {
        0 => Value::Number(number(bytes)?),
        1 => {
            bytes.split_off(..8)?;
            Value::Other
        }
        2 => {
            let length = usize::try_from(number(bytes)?).ok()?;
            Value::Bytes(bytes.split_off(..length)?)
        }
        5 => Value::Single(f32::from_le_bytes(bytes.split_off(..4)?.try_into().ok()?)),
        _ => return None,
    };
    Some((tag >> 3, value))
}

/// A number of seven bits a byte, the lowest first.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        number |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some(number);
        }
    }
    None
}
