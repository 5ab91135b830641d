//! Patterns over names, DESIGN §5.

use std::cmp::Ordering;
use std::fmt;

use super::{MAX_LABEL, MAX_WIRE, Name, NameError};

/// How far below its own text a pattern reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reach {
    /// `.github.com`: the name and everything below it.
    Subtree,
    /// `*.github.com`: everything below the name, at any depth, not the name itself.
    Below,
    /// `github.com`: that name only.
    Exact,
}

/// A pattern over names.
///
/// - `github.com`: that name only
/// - `*.github.com`: any name below it, at any depth, not itself
/// - `.github.com`: both
/// - a `*` elsewhere stands for exactly one label: `s3.*.example.com`
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern {
    reach: Reach,
    /// Nearest the root first, each after its length; a length of 0 is a `*`, which stands for exactly one label. There
    /// may be hundreds of thousands of patterns: one is one piece of memory.
    labels: Box<[u8]>,
}

/// The length of a `*` among the labels.
const STAR: u8 = 0;

/// How closely a pattern describes the names that it matches; the greater one wins. Compared in order:
///
/// 1. the number of labels that it fixes, a `*` inside included and the leading `*.` or `.` not: more
///    beats fewer (`api.github.com` beats `.github.com`);
/// 2. how many of these are literal: a literal beats a `*` (`.s3.eu.example.com` beats
///    `s3.*.example.com`);
/// 3. its reach: exact beats `*.`, and `*.` beats `.`, each being a part of the next.
///
/// Two different patterns may be equally specific (`a.*.example.com` and `*` in another place); then the
/// rest of the rule decides, and in the end a deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Specificity {
    labels: u8,
    literal: u8,
    reach: Reach,
}

impl Pattern {
    /// Read a pattern as it stands in a policy. Narrower than [`Name::parse`]: letters, digits, `-` and
    /// `_` only (after IDNA), since anything else in a policy is a mistake.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let (reach, rest) = if let Some(rest) = text.strip_prefix("*.") {
            (Reach::Below, rest)
        } else if let Some(rest) = text.strip_prefix('.') {
            (Reach::Subtree, rest)
        } else {
            (Reach::Exact, text)
        };
        if text == "*" || (rest.is_empty() && reach != Reach::Exact) {
            return Err(NameError::Everything);
        }
        if rest.is_empty() {
            return Err(NameError::Empty);
        }
        // IDNA knows no `*`, so it is taken out label by label; UTS 46's other full stops separate too.
        let rest = rest.strip_suffix('.').unwrap_or(rest);
        let mut labels = Labels::with_capacity(rest.len() + 1);
        for part in rest.split(['.', '\u{3002}', '\u{ff0e}', '\u{ff61}']) {
            if part == "*" {
                labels.star();
                continue;
            }
            if part.is_empty() {
                return Err(NameError::EmptyLabel);
            }
            if let Some(wrong) = part
                .chars()
                .find(|&c| c.is_ascii() && !is_host_character(c))
            {
                return Err(if wrong == '*' {
                    NameError::PartialStar
                } else {
                    NameError::Character(wrong)
                });
            }
            if part.is_ascii() {
                labels.literal(part.as_bytes())?;
                continue;
            }
            let name = Name::parse(part)?;
            for label in name.labels() {
                if let Some(&wrong) = label.iter().find(|&&b| !is_host_character(b.into())) {
                    return Err(NameError::Character(wrong.into()));
                }
                labels.literal(label)?;
            }
        }
        let Some(last) = labels.last() else {
            return Err(NameError::Everything);
        };
        // The rule of the URL standard: a host whose last label is a number is an address or nothing.
        if last.is_some_and(|last| {
            last.iter().all(u8::is_ascii_digit)
                || last
                    .strip_prefix(b"0x")
                    .is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit))
        }) {
            return Err(NameError::Numeric);
        }
        if labels.shortest() > MAX_WIRE {
            return Err(NameError::TooLong);
        }
        Ok(Self {
            reach,
            labels: labels.turned(),
        })
    }

    /// The pattern that matches exactly `name`. None for the root.
    pub fn exact(name: &Name) -> Option<Self> {
        Self::over(Reach::Exact, name)
    }

    /// The pattern that matches every name below `name`. None for the root.
    pub fn below(name: &Name) -> Option<Self> {
        Self::over(Reach::Below, name)
    }

    fn over(reach: Reach, name: &Name) -> Option<Self> {
        let wire = name.as_wire();
        (!name.is_root()).then(|| Self {
            reach,
            labels: Labels(wire[..wire.len() - 1].to_vec()).turned(),
        })
    }

    /// How far below its text it reaches.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// Its labels nearest the root first; `None` is a `*`.
    pub fn labels_from_root(&self) -> impl Iterator<Item = Option<&[u8]>> {
        each(&self.labels)
    }

    /// Does it have a `*` that stands for one label?
    pub fn has_star(&self) -> bool {
        self.labels_from_root().any(|label| label.is_none())
    }

    /// Does it match? This is what a pattern *means*: the compiled automaton is tested against it.
    pub fn matches(&self, name: &Name) -> bool {
        let mut labels = name.labels_from_root().into_iter();
        for wanted in self.labels_from_root() {
            match (wanted, labels.next()) {
                (_, None) => return false,
                (Some(wanted), Some(label)) if wanted != label => return false,
                _ => {}
            }
        }
        match (self.reach, labels.len().cmp(&0)) {
            (Reach::Exact | Reach::Subtree, Ordering::Equal) => true,
            (Reach::Below | Reach::Subtree, Ordering::Greater) => true,
            (Reach::Exact | Reach::Below, _) | (Reach::Subtree, Ordering::Less) => false,
        }
    }

    /// How closely it describes what it matches.
    pub fn specificity(&self) -> Specificity {
        // At most 127 labels fit a name.
        let (mut labels, mut literal) = (0, 0);
        for label in self.labels_from_root() {
            labels += 1;
            literal += u8::from(label.is_some());
        }
        Specificity {
            labels,
            literal,
            reach: self.reach,
        }
    }
}

/// Labels while a pattern is read, leftmost first, in the form in which it holds them.
struct Labels(Vec<u8>);

impl Labels {
    fn with_capacity(octets: usize) -> Self {
        Self(Vec::with_capacity(octets))
    }

    fn star(&mut self) {
        self.0.push(STAR);
    }

    fn literal(&mut self, label: &[u8]) -> Result<(), NameError> {
        if label.len() > MAX_LABEL {
            return Err(NameError::LongLabel);
        }
        self.0.push(label.len() as u8);
        self.0.extend(label.iter().map(u8::to_ascii_lowercase));
        Ok(())
    }

    /// The last one, if any is not a `*`.
    fn last(&self) -> Option<Option<&[u8]>> {
        let (mut last, mut literal) = (None, false);
        for label in each(&self.0) {
            literal |= label.is_some();
            last = Some(label);
        }
        last.filter(|_| literal)
    }

    /// Octets in wire format of the shortest name that could match: a `*` takes a label of one octet.
    fn shortest(&self) -> usize {
        let stars = each(&self.0).filter(Option::is_none).count();
        self.0.len() + stars + 1
    }

    /// The same labels the other way round.
    fn turned(self) -> Box<[u8]> {
        let mut turned = vec![0; self.0.len()].into_boxed_slice();
        let mut end = turned.len();
        let mut rest = self.0.as_slice();
        while let Some(&length) = rest.first() {
            let (label, after) = rest.split_at(1 + usize::from(length));
            turned[end - label.len()..end].copy_from_slice(label);
            end -= label.len();
            rest = after;
        }
        turned
    }
}

/// The labels that stand after one another, each after its length.
fn each(labels: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = labels;
    std::iter::from_fn(move || {
        let (&length, tail) = rest.split_first()?;
        let (label, after) = tail.split_at_checked(usize::from(length))?;
        rest = after;
        Some((length != STAR).then_some(label))
    })
}

fn is_host_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

impl serde::Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Pattern {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.reach {
            Reach::Exact => "",
            Reach::Below => "*.",
            Reach::Subtree => ".",
        })?;
        let labels: Vec<_> = self.labels_from_root().collect();
        for (index, label) in labels.into_iter().rev().enumerate() {
            if index > 0 {
                f.write_str(".")?;
            }
            match label {
                None => f.write_str("*")?,
                Some(label) => match Name::from_labels([label]) {
                    Ok(name) => write!(f, "{name}")?,
                    Err(_) => return Err(fmt::Error),
                },
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        Pattern::parse(pattern)
            .unwrap()
            .matches(&Name::parse(name).unwrap())
    }

    #[test]
    fn the_design_page_s_table() {
        for (pattern, yes, no) in [
            (
                "github.com",
                &["github.com", "GitHub.com."][..],
                &["api.github.com", "evilgithub.com", "com"][..],
            ),
            (
                "*.github.com",
                &["api.github.com", "a.b.github.com"],
                &["github.com", "evilgithub.com", "github.com.evil"],
            ),
            (
                ".github.com",
                &["github.com", "a.b.github.com"],
                &["evilgithub.com", "com", "github.com.evil"],
            ),
            (
                "s3.*.example.com",
                &["s3.eu.example.com"],
                &[
                    "s3.example.com",
                    "s3.a.b.example.com",
                    "x.s3.eu.example.com",
                    "s4.eu.example.com",
                ],
            ),
            (
                "*.*.example.com",
                &["a.b.example.com", "a.b.c.example.com"],
                &["b.example.com", "example.com"],
            ),
            (
                ".*.example.com",
                &["b.example.com", "a.b.example.com"],
                &["example.com"],
            ),
            ("localhost", &["localhost"], &["a.localhost"]),
        ] {
            for name in yes {
                assert!(matches(pattern, name), "{pattern} must match {name}");
            }
            for name in no {
                assert!(!matches(pattern, name), "{pattern} must not match {name}");
            }
        }
    }

    #[test]
    fn text_is_kept() {
        for text in [
            "github.com",
            "*.github.com",
            ".github.com",
            "s3.*.example.com",
            "_x.y",
        ] {
            assert_eq!(Pattern::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            Pattern::parse(".Bücher.example.").unwrap().to_string(),
            ".xn--bcher-kva.example"
        );
    }

    #[test]
    fn what_is_no_pattern() {
        for (text, why) in [
            ("", NameError::Empty),
            ("*", NameError::Everything),
            (".", NameError::Everything),
            ("*.", NameError::Everything),
            ("*.*", NameError::Everything),
            (".*", NameError::Everything),
            ("..a", NameError::EmptyLabel),
            ("a..b", NameError::EmptyLabel),
            ("s3-*.example.com", NameError::PartialStar),
            ("**.example.com", NameError::PartialStar),
            ("https://github.com/x", NameError::Character(':')),
            ("a/b", NameError::Character('/')),
            ("a b.com", NameError::Character(' ')),
            ("10.0.0.300", NameError::Numeric),
            ("0x7f000001", NameError::Numeric),
            ("10", NameError::Numeric),
        ] {
            assert_eq!(Pattern::parse(text), Err(why), "{text:?}");
        }
        assert!(Pattern::parse(&"a.".repeat(128)).is_err());
    }

    #[test]
    fn the_closer_pattern_is_the_greater() {
        let order = [
            ".com",
            "*.com",
            ".github.com",
            "*.github.com",
            "github.com",
            "*.api.github.com",
            "api.github.com",
        ];
        for pair in order.windows(2) {
            let [a, b] = [pair[0], pair[1]].map(|t| Pattern::parse(t).unwrap().specificity());
            assert!(a < b, "{} < {}", pair[0], pair[1]);
        }
        let [star, literal] = ["s3.*.example.com", ".s3.eu.example.com"]
            .map(|t| Pattern::parse(t).unwrap().specificity());
        assert!(star < literal);
    }
}
