//! A pickle as data: the few instructions that `torch.save` uses, none of which runs anything.
//!
//! burn-store 0.21 reads these files, too, but takes every tensor to be contiguous, puts zeros where
//! values are missing, and copies nested objects without bound; here such files are errors, and values
//! stay in the memory-mapped file.

use std::collections::BTreeMap;

/// A value of the pickle. What has parts is a number in the lists of [`Pickle`], so that references
/// cost nothing and nesting has no depth.
#[derive(Clone, Copy)]
pub(super) enum Value<'a> {
    Nothing,
    Integer(i64),
    Text(&'a str),
    /// A tuple or list.
    Sequence(usize),
    Dict(usize),
    /// Module and name of a class or function.
    Global(&'a str, &'a str),
    /// Type and name of a storage.
    Storage(&'a str, &'a str),
    Tensor(usize),
    /// What a class or function that is not known would have made.
    Object(&'a str),
}

/// A tensor over a storage.
pub(super) struct Tensor<'a> {
    /// A storage's name or a type's.
    pub(super) dtype: &'a str,
    pub(super) storage: &'a str,
    /// Values before the first one.
    pub(super) offset: usize,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// A pickle that was read.
pub(super) struct Pickle<'a> {
    pub(super) root: Value<'a>,
    /// Entries in order; keys that are no text or integer are left out, as no tensor has one.
    pub(super) dicts: Vec<Vec<(String, Value<'a>)>>,
    pub(super) tensors: Vec<Tensor<'a>>,
}

/// Reads a pickle.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn load(bytes: &[u8]) -> Result<Pickle<'_>, String> {
    let mut machine = Machine {
        bytes,
        at: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: BTreeMap::new(),
        sequences: Vec::new(),
        dicts: Vec::new(),
        tensors: Vec::new(),
    };
    loop {
        let code = machine.byte()?;
        if code == b'.' {
            return Ok(Pickle {
                root: machine.pop()?,
                dicts: machine.dicts,
                tensors: machine.tensors,
            });
        }
        machine.step(code)?;
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    stack: Vec<Value<'a>>,
    marks: Vec<usize>,
    memo: BTreeMap<usize, Value<'a>>,
    sequences: Vec<Vec<Value<'a>>>,
    dicts: Vec<Vec<(String, Value<'a>)>>,
    tensors: Vec<Tensor<'a>>,
}

impl<'a> Machine<'a> {
    fn step(&mut self, code: u8) -> Result<(), String> {
        match code {
            // The protocol, and frames of the later ones.
            0x80 => self.take(1).map(|_| ())?,
            0x95 => self.take(8).map(|_| ())?,
            b'N' => self.stack.push(Value::Nothing),
            b'G' => {
                self.take(8)?;
                self.stack.push(Value::Nothing);
            }
            0x88 | 0x89 => self.stack.push(Value::Integer(i64::from(code == 0x88))),
            b'K' => self.integer(1)?,
            b'M' => self.integer(2)?,
            b'J' => {
                let bytes = self.take(4)?;
                let value = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                self.stack.push(Value::Integer(value.into()));
            }
            0x8a => self.long()?,
            b'X' => self.text(4)?,
            0x8c | b'U' => self.text(1)?,
            0x8d => self.text(8)?,
            b'c' => {
                let global = Value::Global(self.line()?, self.line()?);
                self.stack.push(global);
            }
            0x93 => {
                let (name, module) = (self.pop_text()?, self.pop_text()?);
                self.stack.push(Value::Global(module, name));
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' => self.pop().map(|_| ())?,
            b'1' => self.pop_marked().map(|_| ())?,
            b')' | b']' => self.sequence(Vec::new()),
            b't' | b'l' => {
                let values = self.pop_marked()?;
                self.sequence(values);
            }
            0x85..=0x87 => {
                let values = self.pop_many(usize::from(code - 0x84))?;
                self.sequence(values);
            }
            b'a' | b'e' => {
                let values = match code {
                    b'a' => vec![self.pop()?],
                    _ => self.pop_marked()?,
                };
                let Some(Value::Sequence(list)) = self.stack.last() else {
                    return Err("its pickle appends to something else than a list".into());
                };
                self.sequences[*list].extend(values);
            }
            b'}' => self.dict(),
            b's' => {
                let pair = self.pop_many(2)?;
                self.insert(&pair)?;
            }
            b'u' => {
                let pairs = self.pop_marked()?;
                self.insert(&pairs)?;
            }
            b'q' | b'r' => {
                let slot = self.unsigned(if code == b'q' { 1 } else { 4 })?;
                self.remember(slot)?;
            }
            0x94 => self.remember(self.memo.len())?,
            b'h' | b'j' => {
                let slot = self.unsigned(if code == b'h' { 1 } else { 4 })?;
                let value = self.memo.get(&slot).ok_or("its pickle recalls nothing")?;
                self.stack.push(*value);
            }
            b'Q' => {
                let reference = self.pop()?;
                let storage = self.storage(reference)?;
                self.stack.push(storage);
            }
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                self.call(function, arguments)?;
            }
            // The state of an object: nothing that is read has any.
            b'b' => self.pop().map(|_| ())?,
            other => {
                return Err(format!(
                    "its pickle has the instruction {other:#04x}, which torch.save does not use"
                ));
            }
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(count);
        let bytes = end.and_then(|end| self.bytes.get(self.at..end));
        let bytes = bytes.ok_or("its pickle ends too early")?;
        self.at += count;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn unsigned(&mut self, bytes: usize) -> Result<usize, String> {
        let bytes = self.take(bytes)?;
        let number = bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        usize::try_from(number).map_err(|e| e.to_string())
    }

    fn integer(&mut self, bytes: usize) -> Result<(), String> {
        let number = self.unsigned(bytes)?;
        self.stack.push(Value::Integer(number as i64));
        Ok(())
    }

    /// An integer of any length; those of shapes have at most eight bytes.
    fn long(&mut self) -> Result<(), String> {
        let length = usize::from(self.byte()?);
        let bytes = self.take(length)?;
        let sign = if bytes.last().is_some_and(|b| b >> 7 == 1) {
            0xff
        } else {
            0
        };
        let mut wide = [sign; 8];
        if length > wide.len() {
            return Err("its pickle has an integer of more than 64 bits".into());
        }
        wide[..length].copy_from_slice(bytes);
        self.stack.push(Value::Integer(i64::from_le_bytes(wide)));
        Ok(())
    }

    fn text(&mut self, width: usize) -> Result<(), String> {
        let length = self.unsigned(width)?;
        let bytes = self.take(length)?;
        let text = std::str::from_utf8(bytes).map_err(|_| "a name is not UTF-8")?;
        self.stack.push(Value::Text(text));
        Ok(())
    }

    fn line(&mut self) -> Result<&'a str, String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|b| *b == b'\n');
        let line = self.take(length.ok_or("its pickle ends too early")?)?;
        self.at += 1;
        std::str::from_utf8(line).map_err(|e| e.to_string())
    }

    fn pop(&mut self) -> Result<Value<'a>, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("its pickle takes what it did not give".into());
        }
        self.stack.pop().ok_or_else(String::new)
    }

    fn pop_text(&mut self) -> Result<&'a str, String> {
        match self.pop()? {
            Value::Text(text) => Ok(text),
            _ => Err("its pickle has a name that is no text".into()),
        }
    }

    /// The last values, the earliest first.
    fn pop_many(&mut self, count: usize) -> Result<Vec<Value<'a>>, String> {
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(self.pop()?);
        }
        values.reverse();
        Ok(values)
    }

    fn pop_marked(&mut self) -> Result<Vec<Value<'a>>, String> {
        let mark = self.marks.pop().ok_or("its pickle lacks a mark")?;
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn sequence(&mut self, values: Vec<Value<'a>>) {
        self.stack.push(Value::Sequence(self.sequences.len()));
        self.sequences.push(values);
    }

    fn dict(&mut self) {
        self.stack.push(Value::Dict(self.dicts.len()));
        self.dicts.push(Vec::new());
    }

    fn insert(&mut self, pairs: &[Value<'a>]) -> Result<(), String> {
        let Some(Value::Dict(dict)) = self.stack.last() else {
            return Err("its pickle adds entries to something else than a dictionary".into());
        };
        let (pairs, _) = pairs.as_chunks::<2>();
        let pairs = pairs.iter().filter_map(|[key, value]| match key {
            Value::Text(text) => Some((text.to_string(), *value)),
            Value::Integer(number) => Some((number.to_string(), *value)),
            _ => None,
        });
        self.dicts[*dict].extend(pairs);
        Ok(())
    }

    fn remember(&mut self, slot: usize) -> Result<(), String> {
        let value = self.stack.last().ok_or("its pickle keeps nothing")?;
        self.memo.insert(slot, *value);
        Ok(())
    }

    fn parts(&self, value: Value<'a>) -> &[Value<'a>] {
        match value {
            Value::Sequence(sequence) => &self.sequences[sequence],
            _ => &[],
        }
    }

    /// `("storage", type, name, device, number of values)`.
    fn storage(&self, reference: Value<'a>) -> Result<Value<'a>, String> {
        match self.parts(reference) {
            [
                Value::Text(_),
                Value::Global(_, kind),
                Value::Text(name),
                ..,
            ] => Ok(Value::Storage(kind, name)),
            _ => Err("its pickle refers to something else than a storage".into()),
        }
    }

    /// Gives what a function makes, if it is one of the few that make dictionaries and tensors.
    fn call(&mut self, function: Value<'a>, arguments: Value<'a>) -> Result<(), String> {
        let Value::Global(module, name) = function else {
            self.stack.push(Value::Object("an unknown class"));
            return Ok(());
        };
        let arguments = self.parts(arguments);
        let dtype = match (module, name) {
            ("collections", "OrderedDict") if arguments.is_empty() => {
                self.dict();
                return Ok(());
            }
            ("torch._utils", "_rebuild_parameter") => {
                let Some(tensor @ Value::Tensor(_)) = arguments.first().copied() else {
                    return Err("its pickle has a parameter that is no tensor".into());
                };
                self.stack.push(tensor);
                return Ok(());
            }
            ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => None,
            ("torch._utils", "_rebuild_tensor_v3") => match arguments.get(6) {
                Some(Value::Global(_, dtype)) => Some(*dtype),
                _ => return Err("its pickle has a tensor without a type".into()),
            },
            _ => {
                self.stack.push(Value::Object(name));
                return Ok(());
            }
        };
        let tensor = self.tensor(arguments, dtype)?;
        self.stack.push(Value::Tensor(self.tensors.len()));
        self.tensors.push(tensor);
        Ok(())
    }

    fn tensor(
        &self,
        arguments: &[Value<'a>],
        dtype: Option<&'a str>,
    ) -> Result<Tensor<'a>, String> {
        let [
            Value::Storage(kind, storage),
            offset @ Value::Integer(_),
            shape @ Value::Sequence(_),
            strides @ Value::Sequence(_),
            ..,
        ] = arguments
        else {
            return Err("its pickle has a tensor without storage, shape and strides".into());
        };
        let size = |value: &Value<'a>| match value {
            Value::Integer(number) => usize::try_from(*number).map_err(|e| e.to_string()),
            _ => Err("its pickle has a shape that is not made of integers".to_string()),
        };
        let sizes = |values: &Value<'a>| {
            self.parts(*values)
                .iter()
                .map(size)
                .collect::<Result<Vec<_>, _>>()
        };
        Ok(Tensor {
            dtype: dtype.unwrap_or(kind),
            storage,
            offset: size(offset)?,
            shape: sizes(shape)?,
            strides: sizes(strides)?,
        })
    }
}
