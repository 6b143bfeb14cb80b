//! Layers by name: the places at which an adapter acts.

use std::collections::BTreeSet;
use std::fmt;

use crate::{Adapter, LoraError, TargetTable};

/// Layers, as a user names them: parts that must all hold, each with one or more [`Place`]s of which any
/// counts. Without a part it is every layer.
///
/// ```
/// let mut scope = longcat_lora::LayerScope::default();
/// scope.and("blocks.10-30")?;
/// scope.and("blocks.*.ffn,blocks.*.attn.qkv")?;
/// assert_eq!(scope.to_string(), "@blocks.10-30@blocks.*.ffn,blocks.*.attn.qkv");
/// # Ok::<(), longcat_lora::ParsePlaceError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LayerScope {
    parts: Vec<Vec<Place>>,
}

/// Layers of one name or group, as written: the name of a group of the model, or the first components of
/// layer names, in which `*` stands for any letters of a component, `{i}` for a number and `A-B` for the
/// numbers from A to B.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    text: String,
    components: Vec<Component>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Component {
    /// `*` in it stands for any letters.
    Text(String),
    AnyNumber,
    Numbers(u32, u32),
}

/// Why a text names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParsePlaceError {
    /// Nothing between two dots or commas.
    #[error("{place:?} lacks a name between dots or commas")]
    Empty {
        /// The place.
        place: String,
    },
    /// A range that holds no number.
    #[error("{place:?}: the range {first}-{last} ends before it begins")]
    Backwards {
        /// The place.
        place: String,
        /// The number in front.
        first: u32,
        /// The number behind.
        last: u32,
    },
    /// Neither a name nor numbers.
    #[error("{place:?}: {component:?} is no name, number or range of numbers A-B")]
    Component {
        /// The place.
        place: String,
        /// What is between its dots.
        component: String,
    },
}

impl LayerScope {
    /// Narrows the scope by a part: places with commas between them.
    ///
    /// # Errors
    /// [`ParsePlaceError`] quotes the place; nothing changes then.
    pub fn and(&mut self, part: &str) -> Result<(), ParsePlaceError> {
        let places = part.split(',').map(Place::parse);
        self.parts.push(places.collect::<Result<_, _>>()?);
        Ok(())
    }

    /// Whether it is every layer.
    pub fn is_everywhere(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether a layer, by its canonical name, is in the scope.
    pub fn contains(&self, layer: &str, table: &TargetTable) -> bool {
        let mut parts = self.parts.iter();
        parts.all(|places| places.iter().any(|place| place.contains(layer, table)))
    }
}

impl fmt::Display for LayerScope {
    /// As it is written, with `@` in front of each part; empty where it is every layer.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for places in &self.parts {
            let places: Vec<&str> = places.iter().map(|place| place.text.as_str()).collect();
            write!(f, "@{}", places.join(","))?;
        }
        Ok(())
    }
}

impl Place {
    fn parse(text: &str) -> Result<Self, ParsePlaceError> {
        let components = text.split('.').map(|component| match component {
            "" => Err(ParsePlaceError::Empty { place: text.into() }),
            "{i}" => Ok(Component::AnyNumber),
            _ => match numbers(component) {
                Some((first, last)) if first <= last => Ok(Component::Numbers(first, last)),
                Some((first, last)) => Err(ParsePlaceError::Backwards {
                    place: text.into(),
                    first,
                    last,
                }),
                None if component.chars().all(is_of_name) => Ok(Component::Text(component.into())),
                None => Err(ParsePlaceError::Component {
                    place: text.into(),
                    component: component.into(),
                }),
            },
        });
        Ok(Self {
            text: text.into(),
            components: components.collect::<Result<_, _>>()?,
        })
    }

    fn contains(&self, layer: &str, table: &TargetTable) -> bool {
        match table.group(&self.text) {
            Some(places) => places.iter().any(|place| place.begins(layer)),
            None => self.begins(layer),
        }
    }

    /// Whether the components are the first ones of a layer's name.
    fn begins(&self, layer: &str) -> bool {
        let mut names = layer.split('.');
        let mut components = self.components.iter();
        components.all(|component| names.next().is_some_and(|name| component.matches(name)))
    }
}

impl Component {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Text(pattern) => glob(pattern, name),
            Self::AnyNumber => name.parse::<u32>().is_ok(),
            Self::Numbers(first, last) => {
                let number = name.parse::<u32>();
                number.is_ok_and(|number| (*first..=*last).contains(&number))
            }
        }
    }
}

/// `7` or `3-7`.
fn numbers(text: &str) -> Option<(u32, u32)> {
    match text.split_once('-') {
        Some((first, last)) => Some((first.parse().ok()?, last.parse().ok()?)),
        None => text.parse().ok().map(|number| (number, number)),
    }
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '*')
}

/// Whether `name` is `pattern` with something for each `*`.
fn glob(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => name.strip_prefix(start).is_some_and(|name| {
            let mut ends = (0..=name.len()).filter(|end| name.is_char_boundary(*end));
            ends.any(|end| glob(rest, &name[end..]))
        }),
    }
}

impl TargetTable {
    /// Adds names for groups of layers, each with places of which any counts (see [`Place`]).
    ///
    /// # Panics
    /// If a place is none: tables are data of the program.
    pub fn with_groups(mut self, groups: &[(&'static str, &[&str])]) -> Self {
        for (name, places) in groups {
            let places = places.iter().map(|place| match Place::parse(place) {
                Ok(place) => place,
                Err(error) => panic!("group {name}: {error}"),
            });
            self.groups.push((*name, places.collect()));
        }
        self
    }

    /// The groups of layers, with their places as text.
    pub fn groups(&self) -> impl Iterator<Item = (&'static str, Vec<&str>)> {
        self.groups.iter().map(|(name, places)| {
            let places = places.iter().map(|place| place.text.as_str());
            (*name, places.collect())
        })
    }

    fn group(&self, name: &str) -> Option<&[Place]> {
        let mut groups = self.groups.iter();
        let (_, places) = groups.find(|(group, _)| *group == name)?;
        Some(places)
    }
}

impl Adapter {
    /// Keeps the layers of a scope only.
    ///
    /// # Errors
    /// [`LoraError::Nowhere`] for a place without a layer of the adapter, or a scope whose parts have none
    /// in common; nothing changes then.
    pub fn restrict(&mut self, scope: &LayerScope, table: &TargetTable) -> Result<(), LoraError> {
        self.check_scope(scope, table)?;
        self.retain(|layer| scope.contains(layer, table));
        Ok(())
    }

    fn check_scope(&self, scope: &LayerScope, table: &TargetTable) -> Result<(), LoraError> {
        let layers = self.layers();
        let nowhere = |place: String| LoraError::Nowhere {
            path: self.origin().to_path_buf(),
            place,
            groups: table.groups().map(|(name, _)| name.to_string()).collect(),
            layers: kinds(&layers),
        };
        let places = scope.parts.iter().flatten();
        for place in places {
            if !layers.iter().any(|layer| place.contains(layer, table)) {
                return Err(nowhere(format!("@{}", place.text)));
            }
        }
        if !layers.iter().any(|layer| scope.contains(layer, table)) {
            return Err(nowhere(scope.to_string()));
        }
        Ok(())
    }
}

/// Names with `{i}` for numbers, each once.
fn kinds(layers: &BTreeSet<&str>) -> Vec<String> {
    let kind = |layer: &&str| {
        let components = layer.split('.').map(|name| match name.parse::<u32>() {
            Ok(_) => "{i}",
            Err(_) => name,
        });
        components.collect::<Vec<_>>().join(".")
    };
    let kinds: BTreeSet<String> = layers.iter().map(kind).collect();
    kinds.into_iter().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Target;

    fn table() -> TargetTable {
        let target = Target {
            name: "blocks.{i}.attn.qkv",
            parts: 3,
            split: &[],
        };
        let groups: &[(&str, &[&str])] = &[
            ("attn", &["blocks.{i}.attn"]),
            ("embedders", &["x_embedder", "t_embedder"]),
        ];
        TargetTable::new(&[target], &[]).with_groups(groups)
    }

    #[test]
    fn places_are_groups_names_globs_and_ranges() {
        let table = table();
        let layers = [
            "blocks.0.attn.qkv",
            "blocks.10.attn.qkv",
            "blocks.10.cross_attn.q_linear",
            "blocks.30.ffn.w1",
            "blocks.31.ffn.w2",
            "t_embedder.mlp.0",
        ];
        for (parts, expected) in [
            (&[][..], &[0, 1, 2, 3, 4, 5][..]),
            (&["blocks.10-30"], &[1, 2, 3]),
            (&["blocks.1"], &[]),
            (&["blocks.31"], &[4]),
            (&["attn"], &[0, 1]),
            (&["blocks.10-30", "attn"], &[1]),
            (&["attn,embedders"], &[0, 1, 5]),
            (&["blocks.{i}.ffn.w1"], &[3]),
            (&["blocks.0-30.ffn"], &[3]),
            (&["blocks.*.*attn"], &[0, 1, 2]),
            (&["blocks.*.ffn.w*"], &[3, 4]),
            (&["t_embedder.{i}"], &[]),
            (&["blocks.{i}.attn.qkv.weight"], &[]),
        ] {
            let mut scope = LayerScope::default();
            parts.iter().for_each(|part| scope.and(part).unwrap());
            let found: Vec<usize> = (0..layers.len())
                .filter(|i| scope.contains(layers[*i], &table))
                .collect();
            assert_eq!(found, expected, "{parts:?}");
        }
    }

    #[test]
    fn what_is_no_place_is_quoted() {
        let mut scope = LayerScope::default();
        for (part, words) in [
            ("", "lacks a name"),
            ("attn,", "lacks a name"),
            ("blocks..attn", "\"blocks..attn\""),
            ("blocks.30-10", "30-10 ends before"),
            ("blocks.10-", "\"10-\" is no name"),
            ("a b", "\"a b\" is no name"),
            ("blocks.5-x.attn", "\"5-x\""),
        ] {
            let error = scope.and(part).unwrap_err().to_string();
            assert!(error.contains(words), "{part}: {error}");
        }
        assert!(scope.is_everywhere());
    }
}
