//! JSON as the same tree as YAML's.
//!
//! JSON is YAML for the most part, but not in all: the escape of a character in two halves (`\ud83d\ude00`) is
//! none of YAML's, and neither is a key of more than a thousand characters. What programs write is read as what it is.
//! serde_json keeps no places; of a value that it leaves as it stands (`RawValue`), the text itself is a part of
//! the whole text, and its place is known by that.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::Places;
use super::yaml::{Document, Node, Refusal, Value};

/// Could a text be JSON, of which the outermost value is an object or a list?
pub(super) fn may_be(text: &str) -> bool {
    text.trim_start().starts_with(['{', '['])
}

/// Was a text meant to be JSON, whatever is wrong with it? YAML has braces too, mostly with bare words in them.
pub(super) fn was_meant(text: &str) -> bool {
    let mut letters = text.chars().filter(|letter| !letter.is_whitespace());
    match (letters.next(), letters.next()) {
        (Some('{'), second) => matches!(second, Some('"') | None),
        (Some('['), second) => matches!(second, Some('"' | '{' | '[') | None),
        _ => false,
    }
}

/// Read a text that is one JSON value. `depth` is how deeply it may be nested: what lies deeper is left out, and told.
pub(super) fn read(
    text: &str,
    places: &Places<'_>,
    what: &str,
    depth: usize,
) -> Result<Document, Refusal> {
    let refusal = |error: &serde_json::Error| refusal(error, places);
    // Once, so that what is read again below is known to be whole.
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| refusal(&error))?;
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| refusal(&error))?;
    let mut tree = Tree {
        text,
        depth,
        too_deep: None,
    };
    let root = tree.node(raw, 0).map_err(|error| refusal(&error))?;
    let odd = tree.too_deep.map(|span| Refusal {
        message: format!("nested more deeply than any {what} is"),
        help: None,
        span,
    });
    Ok(Document { root, odd })
}

fn refusal(error: &serde_json::Error, places: &Places<'_>) -> Refusal {
    let whole = error.to_string();
    let what = whole
        .rsplit_once(" at line ")
        .map_or(&*whole, |(what, _)| what);
    let at = places.byte_at(error.line(), error.column());
    Refusal {
        message: format!("not valid JSON: {what}"),
        help: error
            .is_eof()
            .then(|| "the file ends too early: was it cut off?".to_owned()),
        span: at..at,
    }
}

/// The pairs of an object, in their order, with what stands twice.
struct Pairs<'t>(Vec<(&'t RawValue, &'t RawValue)>);

impl<'de> Deserialize<'de> for Pairs<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Each;
        impl<'de> Visitor<'de> for Each {
            type Value = Pairs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Each)
    }
}

struct Tree<'t> {
    text: &'t str,
    depth: usize,
    /// The first that lies too deep.
    too_deep: Option<Range<usize>>,
}

impl<'t> Tree<'t> {
    fn span(&self, raw: &RawValue) -> Range<usize> {
        let start = raw.get().as_ptr().addr() - self.text.as_ptr().addr();
        start..start + raw.get().len()
    }

    fn node(&mut self, raw: &'t RawValue, depth: usize) -> Result<Node, serde_json::Error> {
        let span = self.span(raw);
        let text = raw.get();
        let nested = text.starts_with(['{', '[']);
        let value = match text.as_bytes().first() {
            _ if nested && depth >= self.depth => {
                self.too_deep.get_or_insert(span.start..span.start);
                Value::Null
            }
            Some(b'{') => {
                let Pairs(pairs) = serde_json::from_str(text)?;
                let pairs = pairs.into_iter().map(|(key, value)| {
                    Ok((self.node(key, depth + 1)?, self.node(value, depth + 1)?))
                });
                Value::Mapping(pairs.collect::<Result<_, serde_json::Error>>()?)
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = serde_json::from_str(text)?;
                let items = items.into_iter().map(|item| self.node(item, depth + 1));
                Value::Sequence(items.collect::<Result<_, _>>()?)
            }
            Some(b'"') => {
                let text: Cow<'_, str> = serde_json::from_str(text)?;
                Value::Text(text.into_owned())
            }
            Some(b't' | b'f') => Value::Bool(text == "true"),
            Some(b'n') => Value::Null,
            _ => Value::Text(text.to_owned()),
        };
        Ok(Node { value, span })
    }
}
