//! Names and the patterns that match them.
//!
//! A name is kept in one form only (A-labels, lower case, no trailing dot), so that two names are the
//! same exactly when their bytes are. DNS allows any byte in a label, so a name is bytes with a textual
//! presentation, not text.

mod pattern;
mod suffix;

use std::fmt;
use std::str::FromStr;

pub use pattern::{Pattern, Reach, Specificity};
pub use suffix::Breadth;

/// Longest label, in bytes.
pub const MAX_LABEL: usize = 63;
/// Longest name in wire format, in bytes, the root's zero included.
pub const MAX_WIRE: usize = 255;

/// A domain name, normalised.
///
/// Held in wire format: length-prefixed labels, lower case, ending in the root's zero byte.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

/// Why a text or a message's bytes are no name. Lower case, reads well after "not a name: ".
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// Nothing there.
    Empty,
    /// Two dots in a row, or one at the start.
    EmptyLabel,
    /// A label of more than 63 bytes.
    LongLabel,
    /// More than 255 bytes in wire format.
    TooLong,
    /// Not encodable as A-labels.
    Idna,
    /// A character that cannot stand in a name as it is.
    Character(char),
    /// A `\` without three digits up to 255, or a character, after it.
    Escape,
    /// The bytes end before the name does, go on after it, or hold a compression pointer.
    Wire,
    /// A `*` that is not a label of its own.
    PartialStar,
    /// Nothing but `*`: it would match every name.
    Everything,
    /// The last label is a number, so this is an address that went wrong.
    Numeric,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::EmptyLabel => f.write_str("a label is empty (two dots in a row, or a stray dot)"),
            Self::LongLabel => write!(f, "a label is longer than {MAX_LABEL} bytes"),
            Self::TooLong => write!(f, "it is longer than {MAX_WIRE} bytes"),
            Self::Idna => f.write_str("it cannot be encoded as an internationalised name (IDNA)"),
            Self::Character(c) => write!(f, "{c:?} cannot stand in a name"),
            Self::Escape => f.write_str(
                "a `\\` must be followed by three digits up to 255, or by one character",
            ),
            Self::Wire => f.write_str("the bytes are not one whole uncompressed name"),
            Self::PartialStar => f.write_str("a `*` must be a whole label"),
            Self::Everything => f.write_str("it would match every name"),
            Self::Numeric => f.write_str(
                "its last label is a number, so it is neither a name nor a valid address",
            ),
        }
    }
}

impl std::error::Error for NameError {}

impl Name {
    /// The root of the name space, `.`.
    pub fn root() -> Self {
        Self(Box::new([0]))
    }

    /// Read presentation form: Unicode or ASCII, any case, with or without the trailing dot, `\DDD` for
    /// bytes that do not print. Non-ASCII text is encoded by IDNA; text with escapes must be ASCII.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text == "." {
            return Ok(Self::root());
        }
        if text.is_ascii() {
            return Self::parse_ascii(text);
        }
        if text.contains('\\') {
            return Err(NameError::Escape);
        }
        let ascii = idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::EMPTY)
            .map_err(|_| NameError::Idna)?;
        if ascii.is_empty() {
            return Err(NameError::Empty);
        }
        Self::parse_ascii(&ascii)
    }

    fn parse_ascii(text: &str) -> Result<Self, NameError> {
        let mut wire = Vec::with_capacity(text.len() + 2);
        let mut label = Vec::with_capacity(MAX_LABEL);
        let mut bytes = text.bytes();
        let mut ended = false;
        while let Some(byte) = bytes.next() {
            match byte {
                b'.' => {
                    push_label(&mut wire, &label)?;
                    label.clear();
                    ended = true;
                    continue;
                }
                b'\\' => label.push(unescape(&mut bytes)?.to_ascii_lowercase()),
                b'!'..=b'~' => label.push(byte.to_ascii_lowercase()),
                _ => return Err(NameError::Character(byte.into())),
            }
            ended = false;
        }
        // A dot at the very end is the root's and stands for no label of its own.
        if !ended {
            push_label(&mut wire, &label)?;
        }
        wire.push(0);
        Self::bounded(wire)
    }

    fn bounded(wire: Vec<u8>) -> Result<Self, NameError> {
        if wire.len() > MAX_WIRE {
            Err(NameError::TooLong)
        } else {
            Ok(Self(wire.into()))
        }
    }

    /// Read wire format: one whole, uncompressed name with its root label and nothing after it.
    pub fn from_wire(wire: &[u8]) -> Result<Self, NameError> {
        let mut rest = wire;
        loop {
            let (&length, tail) = rest.split_first().ok_or(NameError::Wire)?;
            if length == 0 {
                if !tail.is_empty() {
                    return Err(NameError::Wire);
                }
                // Length octets are below 64, so lower-casing the whole leaves them alone.
                return Self::bounded(wire.to_ascii_lowercase());
            }
            if usize::from(length) > MAX_LABEL {
                return Err(NameError::Wire);
            }
            rest = tail.get(usize::from(length)..).ok_or(NameError::Wire)?;
        }
    }

    /// Put together from labels, leftmost first.
    pub fn from_labels<L: AsRef<[u8]>>(
        labels: impl IntoIterator<Item = L>,
    ) -> Result<Self, NameError> {
        let mut wire = Vec::new();
        for label in labels {
            push_label(&mut wire, label.as_ref())?;
        }
        wire.push(0);
        Self::bounded(wire.to_ascii_lowercase())
    }

    /// Wire format, lower case, root label included.
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// Labels, leftmost first; none for the root.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest: &[u8] = &self.0;
        std::iter::from_fn(move || {
            let (&length, tail) = rest.split_first()?;
            if length == 0 {
                return None;
            }
            let (label, after) = tail.split_at_checked(usize::from(length))?;
            rest = after;
            Some(label)
        })
    }

    /// Labels, rightmost (nearest the root) first.
    pub fn labels_from_root(&self) -> Vec<&[u8]> {
        let mut labels: Vec<_> = self.labels().collect();
        labels.reverse();
        labels
    }

    /// The root of the name space?
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }
}

fn push_label(wire: &mut Vec<u8>, label: &[u8]) -> Result<(), NameError> {
    if label.is_empty() {
        return Err(NameError::EmptyLabel);
    }
    if label.len() > MAX_LABEL {
        return Err(NameError::LongLabel);
    }
    if wire.len() + label.len() + 2 > MAX_WIRE {
        return Err(NameError::TooLong);
    }
    wire.push(label.len() as u8);
    wire.extend_from_slice(label);
    Ok(())
}

/// What stands after a backslash: three decimal digits, or the character itself.
fn unescape(bytes: &mut std::str::Bytes<'_>) -> Result<u8, NameError> {
    let first = bytes.next().ok_or(NameError::Escape)?;
    if !first.is_ascii_digit() {
        return if first.is_ascii_graphic() {
            Ok(first)
        } else {
            Err(NameError::Escape)
        };
    }
    let mut value = u32::from(first - b'0');
    for _ in 0..2 {
        let digit = bytes
            .next()
            .filter(u8::is_ascii_digit)
            .ok_or(NameError::Escape)?;
        value = value * 10 + u32::from(digit - b'0');
    }
    u8::try_from(value).map_err(|_| NameError::Escape)
}

/// Presentation form: no trailing dot (the root is `.`), and every byte that could be misread (not
/// printable, a dot inside a label, a backslash) as `\DDD`.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        for (index, label) in self.labels().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            for &byte in label {
                match byte {
                    b'.' | b'\\' => write!(f, "\\{byte:03}")?,
                    b'!'..=b'~' => write!(f, "{}", char::from(byte))?,
                    _ => write!(f, "\\{byte:03}")?,
                }
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Name({self})")
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_form_whatever_was_written() {
        for text in ["GitHub.com", "github.com.", "github.com", "GITHUB.COM."] {
            assert_eq!(Name::parse(text).unwrap().to_string(), "github.com");
        }
        assert_eq!(
            Name::parse("Bücher.Example").unwrap().to_string(),
            "xn--bcher-kva.example"
        );
        assert_eq!(
            Name::parse("例え。テスト").unwrap().to_string(),
            "xn--r8jz45g.xn--zckzah"
        );
        assert_eq!(
            Name::parse("_dmarc.a-b.c").unwrap().to_string(),
            "_dmarc.a-b.c"
        );
        assert_eq!(Name::parse(".").unwrap(), Name::root());
    }

    #[test]
    fn bytes_that_could_be_misread_are_escaped() {
        let name = Name::from_wire(b"\x05a.b\\\x00\x03com\x00").unwrap();
        assert_eq!(name.to_string(), "a\\046b\\092\\000.com");
        assert_eq!(Name::parse("a\\.b\\\\\\000.com").unwrap(), name);
    }

    #[test]
    fn limits_hold() {
        let label = "a".repeat(63);
        assert!(Name::parse(&label).is_ok());
        assert_eq!(Name::parse(&"a".repeat(64)), Err(NameError::LongLabel));
        // 3 × 64 + 62 + root = 255.
        let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
        assert_eq!(Name::parse(&longest).unwrap().as_wire().len(), 255);
        assert_eq!(Name::parse(&format!("{longest}b")), Err(NameError::TooLong));
    }

    #[test]
    fn what_is_no_name() {
        for (text, why) in [
            ("", NameError::Empty),
            ("..", NameError::EmptyLabel),
            (".a", NameError::EmptyLabel),
            ("a..b", NameError::EmptyLabel),
            ("a..", NameError::EmptyLabel),
            ("a b", NameError::Character(' ')),
            ("a\\25", NameError::Escape),
            ("a\\256", NameError::Escape),
        ] {
            assert_eq!(Name::parse(text), Err(why), "{text:?}");
        }
        for wire in [
            &b""[..],
            b"\x01",
            b"\x01a",
            b"\x01a\x00x",
            b"\xc0\x0c",
            b"\x40\x00",
            b"\x02a\x00",
        ] {
            assert_eq!(Name::from_wire(wire), Err(NameError::Wire), "{wire:?}");
        }
    }

    proptest! {
        #[test]
        fn any_labels_survive_text_and_wire(
            labels in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6)
        ) {
            let name = Name::from_labels(&labels).unwrap();
            prop_assert_eq!(&Name::parse(&name.to_string()).unwrap(), &name);
            prop_assert_eq!(&Name::from_wire(name.as_wire()).unwrap(), &name);
            let lower: Vec<_> = labels.iter().map(|l| l.to_ascii_lowercase()).collect();
            prop_assert_eq!(name.labels().map(<[u8]>::to_vec).collect::<Vec<_>>(), lower);
        }

        #[test]
        fn any_text_and_any_bytes_are_a_name_or_an_error(text in ".*", bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(name) = Name::parse(&text) {
                prop_assert!(name.as_wire().len() <= MAX_WIRE);
                prop_assert_eq!(Name::parse(&name.to_string()).unwrap(), name);
            }
            if let Ok(name) = Name::from_wire(&bytes) {
                prop_assert_eq!(name.as_wire(), &bytes.to_ascii_lowercase()[..]);
            }
        }
    }
}
