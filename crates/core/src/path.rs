//! Patterns over paths: which executables a rule is about, and which unix sockets.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use globset::GlobBuilder;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest pattern that is read.
const MAX_LENGTH: usize = 512;

/// A pattern over paths.
///
/// - `terraform`: a file of that name, in any directory
/// - `/usr/bin/git`: that path
/// - `/opt/*/bin/tool`: `*` stands for anything but a `/`, `?` for one such character, `**` as a whole
///   component for any number of directories, `[ab]` and `{a,b}` for one of several
///
/// An executable's path is compared as exec was given it, a socket's in its [`usual`] spelling; but for `/var/run`, links
/// in it are not followed.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PathPattern(Box<Both>);

/// Apart, for every rule has room for a pattern, and few have one.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Both {
    text: Box<str>,
    regex: Box<str>,
}

/// Which processes a rule is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    /// Also every process that such a one has started, directly or through others.
    pub tree: bool,
    /// What the process executes.
    pub program: PathPattern,
}

/// Why a text is no pattern over paths.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PathError {
    /// Nothing.
    Empty,
    /// More than a pattern may have.
    TooLong,
    /// A path that does not begin at the root.
    Relative,
    /// A character that no path shown to a person should hold.
    Control,
    /// Not a pattern, in the words of the library.
    Syntax(String),
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("it is empty"),
            Self::TooLong => write!(f, "it is longer than {MAX_LENGTH} octets"),
            Self::Relative => f.write_str("a path begins with `/`"),
            Self::Control => f.write_str("it has a control character"),
            Self::Syntax(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for PathError {}

impl PathPattern {
    /// A file name, or a path from the root.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let absolute = text.starts_with('/') || text.starts_with("**/");
        if text.contains('/') && !absolute {
            return Err(PathError::Relative);
        }
        let body = regex(text)?;
        Ok(Self::of(
            text,
            if absolute {
                body
            } else {
                format!("(?:(?s-u:.)*/)?{body}")
            },
        ))
    }

    /// A unix socket: a path from the root, or an abstract name, which begins with `@`.
    pub fn socket(text: &str) -> Result<Self, PathError> {
        if !text.is_empty() && !text.starts_with(['/', '@']) {
            return Err(PathError::Relative);
        }
        Ok(Self::of(text, regex(text)?))
    }

    fn of(text: &str, regex: String) -> Self {
        Self(Box::new(Both {
            text: text.into(),
            regex: regex.into(),
        }))
    }

    /// The one unix socket with this path, whatever characters it has.
    pub(crate) fn exact_socket(path: &str) -> Result<Self, PathError> {
        let mut text = String::with_capacity(path.len());
        for c in path.chars() {
            if "*?[]{}\\!".contains(c) {
                text.push('\\');
            }
            text.push(c);
        }
        Self::socket(&text)
    }

    /// What it means, over octets and without anchors.
    pub(crate) fn regex(&self) -> &str {
        &self.0.regex
    }

    /// What it means of a socket's path in its [`usual`] spelling, likewise.
    pub(crate) fn socket_regex(&self) -> String {
        let spellings = usual_patterns(&self.0.text);
        let all = spellings.iter().map(|text| regex(text));
        // What is one component shorter than a pattern is a pattern.
        let all: Result<Vec<String>, PathError> = all.collect();
        all.map_or_else(
            |_| self.0.regex.to_string(),
            |all| format!("(?:{})", all.join("|")),
        )
    }

    /// A path from the root, not a file's name?
    pub fn is_absolute(&self) -> bool {
        self.0.text.contains('/') || self.0.text.starts_with('@')
    }

    /// The one path that it means; none if it has a wildcard.
    pub fn only(&self) -> Option<String> {
        let (text, whole) = self.beginning();
        whole.then_some(text)
    }

    /// The directory below which everything lies that it means.
    pub fn directory(&self) -> PathBuf {
        let (text, _) = self.beginning();
        text.rsplit_once('/')
            .map(|(directory, _)| format!("{directory}/").into())
            .unwrap_or_default()
    }

    /// What stands before the first wildcard, and whether that is all of it.
    fn beginning(&self) -> (String, bool) {
        let mut text = String::new();
        let mut rest = self.0.text.chars();
        while let Some(c) = rest.next() {
            match c {
                '*' | '?' | '[' | '{' => return (text, false),
                '\\' => text.extend(rest.next()),
                c => text.push(c),
            }
        }
        (text, true)
    }

    /// How many octets stand before the first wildcard: of two patterns that match, the one with more of
    /// them describes the path more closely.
    pub fn literal_octets(&self) -> usize {
        self.0
            .text
            .find(['*', '?', '[', '{'])
            .unwrap_or(usize::from(u16::MAX))
    }
}

/// The one spelling of a unix socket's path that is judged and recorded: without empty components, `.` and `..`, and with
/// `/run` for `/var/run`, which is a link to it everywhere. An abstract name stays as it is; so does what is relative, which
/// the kernel tells by the directory that the process works in (`place.bpf.h`, which does the same).
pub fn usual(path: &[u8]) -> Cow<'_, [u8]> {
    if !path.starts_with(b"/") {
        return Cow::Borrowed(path);
    }
    let mut kept: Vec<&[u8]> = Vec::new();
    for component in path.split(|&octet| octet == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            _ => kept.push(component),
        }
    }
    if let [b"var", b"run", _, ..] = kept[..] {
        kept.remove(0);
    }
    let mut usual = Vec::with_capacity(path.len());
    for component in &kept {
        usual.push(b'/');
        usual.extend_from_slice(component);
    }
    if usual.is_empty() {
        usual.push(b'/');
    }
    Cow::Owned(usual)
}

/// Patterns that match the usual spelling of all that the pattern `text` means.
fn usual_patterns(text: &str) -> Vec<String> {
    let Some(components) = components(text) else {
        return vec![text.to_owned()];
    };
    let below = |components: &[&str]| format!("/{}", components.join("/"));
    let mut patterns = vec![below(&components)];
    if let [first, second, rest @ ..] = &components[..]
        && matches(first, "var")
    {
        if *second == "**" {
            patterns.push(below(&[&["run", "**"], rest].concat()));
        } else if !rest.is_empty() && matches(second, "run") {
            patterns.push(below(&components[1..]).replacen(second, "run", 1));
        }
    }
    patterns
}

/// The components of a pattern that begins at the root, in the usual spelling; none if a group of it goes over several, or
/// it cannot be told what a `..` takes away.
fn components(text: &str) -> Option<Vec<&str>> {
    let mut kept: Vec<&str> = Vec::new();
    let (mut depth, mut escaped, mut from) = (0u32, false, 1);
    let all = text.strip_prefix('/')?.char_indices();
    let ends = all.map(|(at, c)| (at + 1, c)).chain([(text.len(), '/')]);
    for (at, c) in ends {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            '/' if depth > 0 => return None,
            '/' => {
                match &text[from..at] {
                    "" | "." => {}
                    ".." => match kept.pop() {
                        Some(taken) if taken.contains(['*', '?', '{', '[']) => return None,
                        _ => {}
                    },
                    component => kept.push(component),
                }
                from = at + 1;
            }
            _ => {}
        }
    }
    Some(kept)
}

/// Is the component one that the pattern of a component means?
fn matches(pattern: &str, component: &str) -> bool {
    GlobBuilder::new(pattern)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .is_ok_and(|glob| glob.compile_matcher().is_match(component))
}

/// The pattern as a regular expression over octets, without the anchors that it is written with.
fn regex(text: &str) -> Result<String, PathError> {
    if text.is_empty() {
        return Err(PathError::Empty);
    }
    if text.len() > MAX_LENGTH {
        return Err(PathError::TooLong);
    }
    if text.chars().any(char::is_control) {
        return Err(PathError::Control);
    }
    let glob = GlobBuilder::new(text)
        .literal_separator(true)
        .backslash_escape(true)
        .build()
        .map_err(|error| PathError::Syntax(error.kind().to_string()))?;
    let written = glob.regex();
    let body = written
        .strip_prefix("(?-u)^")
        .and_then(|rest| rest.strip_suffix('$'))
        .unwrap_or(written);
    Ok(format!("(?:(?-u){body})"))
}

impl fmt::Debug for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Both { text, regex } = &*self.0;
        f.debug_struct("PathPattern")
            .field("text", text)
            .field("regex", regex)
            .finish()
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl Selector {
    /// `terraform`, `/usr/bin/git`, `/opt/*/tool`; with `ancestor:` before it also what such a process starts.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        let (tree, program) = match text.strip_prefix("ancestor:") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        Ok(Self {
            tree,
            program: PathPattern::parse(program.trim())?,
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tree {
            f.write_str("ancestor:")?;
        }
        write!(f, "{}", self.program)
    }
}

impl FromStr for Selector {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        Self::parse(text)
    }
}

impl Serialize for PathPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.text)
    }
}

impl<'de> Deserialize<'de> for PathPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // What was a socket's cannot be told from an executable's path, and both mean the same.
        if text.starts_with('@') {
            Self::socket(&text)
        } else {
            Self::parse(&text)
        }
        .map_err(serde::de::Error::custom)
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::Paths;

    #[test]
    fn a_socket_has_one_spelling() {
        for (written, spelling) in [
            ("/run/a.sock", "/run/a.sock"),
            ("/var/run/a.sock", "/run/a.sock"),
            ("//var/./run//a.sock", "/run/a.sock"),
            ("/run/../run/b/../a.sock", "/run/a.sock"),
            ("/var/run", "/var/run"),
            ("/var/running/a", "/var/running/a"),
            ("/../a/..", "/"),
            ("@/var/run//a", "@/var/run//a"),
            ("./a", "./a"),
        ] {
            assert_eq!(&*usual(written.as_bytes()), spelling.as_bytes());
        }
    }

    #[test]
    fn a_pattern_means_what_it_means_in_any_spelling() {
        let means = |pattern: &str, path: &str| {
            let pattern = PathPattern::socket(pattern).unwrap();
            let paths = Paths::new(&[pattern.socket_regex()]).unwrap();
            let state = paths.walk(&usual(path.as_bytes())) as usize;
            !paths.matching[state].is_empty()
        };
        for pattern in [
            "/run/docker.sock",
            "/var/run/docker.sock",
            "/var/./run//x/../docker.sock",
            "/var/*/docker.sock",
            "/*/run/docker.sock",
            "/var/**/docker.sock",
            "/**/docker.sock",
            "/var/**",
            "/v?r/{run,lib}/d*",
            "/{run,var/run}/docker.sock",
        ] {
            for path in ["/run/docker.sock", "/var/run/docker.sock"] {
                assert!(means(pattern, path), "{pattern} {path}");
            }
            assert!(!means(pattern, "/srv/docker.sock") || pattern == "/**/docker.sock");
        }
        assert!(means("/var/lib/*", "/var/lib/a") && !means("/var/lib/*", "/run/a"));
        assert!(!means("/var/run", "/run/a") && means("/var/**", "/var/lib/a"));
        assert!(means("@docker/./*", "@docker/./a"));
    }

    #[test]
    fn what_stands_before_a_wildcard_is_known() {
        let of = |text: &str| {
            let pattern = PathPattern::socket(text).unwrap();
            (pattern.only(), pattern.directory().display().to_string())
        };
        let only = |text: &str| Some(text.to_owned());
        assert_eq!(of("/run/a.sock"), (only("/run/a.sock"), "/run/".to_owned()));
        assert_eq!(of("/run/a/*.sock"), (None, "/run/a/".to_owned()));
        assert_eq!(of("/run/a*/b"), (None, "/run/".to_owned()));
        assert_eq!(of("/**"), (None, "/".to_owned()));
        assert_eq!(of("/run/{a,b}"), (None, "/run/".to_owned()));
        assert_eq!(of(r"/run/\*\[x"), (only("/run/*[x"), "/run/".to_owned()));
    }
}
