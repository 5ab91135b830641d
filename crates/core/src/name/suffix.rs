//! Public suffixes: where names stop belonging to one owner.

use blackstart_suffix::Kind;

use super::pattern::{Pattern, Reach};

/// Whose names a pattern can match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Breadth {
    /// One owner's, as far as the public suffix list tells.
    OneOwner,
    /// Strangers': the pattern lies at or above this public suffix.
    Strangers {
        /// The suffix.
        suffix: String,
    },
}

impl Pattern {
    /// Does the pattern lie at or above a public suffix, so that it takes in names of strangers?
    ///
    /// A top-level label that the list does not know (`internal`, `corp`, `localhost`) is somebody's own and
    /// is never a public suffix here. A pattern for one exact name is judged only by the list's ICANN part:
    /// `s3.amazonaws.com` is a suffix of its owner's making, but as a name it is one host; `co.uk` is none.
    /// What lies above a suffix of an owner's making (`.amazonaws.com`) is that owner's.
    pub fn breadth(&self) -> Breadth {
        // Right of its rightmost `*`, a pattern is a subtree like any other.
        let literal: Vec<&[u8]> = self.labels_from_root().map_while(|l| l).collect();
        let exact = self.reach() == Reach::Exact && !self.has_star();
        let tail = literal
            .iter()
            .rev()
            .copied()
            .collect::<Vec<_>>()
            .join(&b'.');
        if tail.is_empty() {
            return Breadth::Strangers {
                suffix: ".".to_owned(),
            };
        }
        let strangers = || Breadth::Strangers {
            suffix: String::from_utf8_lossy(&tail).into_owned(),
        };
        match blackstart_suffix::kind(&tail) {
            Some(Kind::Icann) => return strangers(),
            Some(Kind::Private) if !exact => return strangers(),
            Some(Kind::Private) | None => {}
        }
        // `*.ck` in the list makes every name right below `ck` a suffix, so `.ck` lies above one.
        if !exact {
            let below = [b"x.".as_slice(), &tail].concat();
            if blackstart_suffix::kind(&below).is_some() {
                return strangers();
            }
        }
        Breadth::OneOwner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_told_from_one_owner() {
        for wide in [
            "com",
            ".com",
            "*.com",
            ".co.uk",
            "co.uk",
            "*.github.io",
            ".s3.amazonaws.com",
            "foo.*.com",
            "foo.*",
            ".ck",
            ".kawasaki.jp",
            "*.*.co.uk",
        ] {
            assert!(
                matches!(
                    Pattern::parse(wide).unwrap().breadth(),
                    Breadth::Strangers { .. }
                ),
                "{wide}"
            );
        }
        for narrow in [
            "github.com",
            ".github.com",
            "*.example.co.uk",
            "s3.amazonaws.com",
            "github.io",
            "localhost",
            ".localhost",
            ".internal",
            "*.corp",
            "db",
            "s3.*.example.com",
            ".lan",
            "foo.*.internal",
            ".www.ck",
        ] {
            assert_eq!(
                Pattern::parse(narrow).unwrap().breadth(),
                Breadth::OneOwner,
                "{narrow}"
            );
        }
    }
}
